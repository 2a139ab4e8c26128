package check

import (
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// grace tells whether a target has come so far, while it was waited for, that what
// it was about to free is freed. Time does not tell that of a machine that is
// short of processors: memory of modules, and of what ran at their start, is freed
// after a grace period of RCU (kernel/module/main.c, do_free_init, free_module),
// and the kernel counts those (kernel/rcu/tree.c, rcu_state.gp_seq: the number
// above two bits that are zero while none is under way).
type grace struct {
	begun bool
	from  uint64 // gp_seq
	idle  int    // looks at which none was under way: then nobody waits for one
	looks int
	err   error // why it is not known
	moved bool  // the target runs: what stands still, such as a dump, never gets further
	last  bool  // the target was waited for
}

const (
	gracePeriods = 4  // the one that was under way, the one to wait for, and for the work behind it
	graceIdle    = 40 // looks, a second
	// graceLooks bounds the waiting, a minute: a target that does not get there is
	// not measured.
	graceLooks = 2400
)

var errStarved = errors.New("code without an account, and the target did not get as far as to free what it no longer needs")

// look reads the count once more.
func (g *grace) look(c *collector) {
	var seq uint64
	at, ok := c.profile.Symbol("rcu_state")
	offset, err := c.profile.Types.Offset("rcu_state", "gp_seq")
	if ok && err == nil {
		seq, err = c.space.U64(at + mem.Virt(offset))
	}
	if g.looks++; !ok || err != nil {
		g.err = errors.Join(errNotObserved, err)
		return
	}
	g.add(seq)
}

// add notes what a look saw.
func (g *grace) add(seq uint64) {
	if !g.begun {
		g.begun, g.from = true, seq
	}
	g.moved = g.moved || seq != g.from
	if seq&3 == 0 {
		g.idle++
	}
	if seq>>2-g.from>>2 >= gracePeriods {
		g.idle = graceIdle
	}
}

// passed reports whether enough has passed, as far as that is known.
func (g *grace) passed() bool { return g.err != nil || g.idle >= graceIdle }

// pass looks until enough has passed, or for so long that it will not.
func (c *collector) pass(g *grace) {
	for g.look(c); !c.still && !g.passed() && g.looks < graceLooks; g.look(c) {
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(lastingPause):
		}
	}
}

// wait waits a little for code without an account to get one or to go. When the
// patience of the scan is at its end it waits until the target has come far enough;
// what is read after that counts.
func (c *collector) wait(g *grace) bool {
	if g.last || c.still {
		return false
	}
	for g.look(c); ; g.look(c) {
		c.patience -= lastingPause
		select {
		case <-c.ctx.Done():
			return false
		case <-time.After(lastingPause):
		}
		switch {
		case c.patience >= 0:
			return true
		case g.passed() || g.looks >= graceLooks:
			g.last = true
			return true
		}
	}
}
