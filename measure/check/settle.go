package check

import (
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A module that is being loaded cannot be compared: where its sections are is in
// its account only at the end of that. Nor can one that was loaded while the scan
// ran. Both take moments, so that a scan waits a little for the first before it
// begins, and is done once more after the second. Neither leaves anything out: what
// does not come to rest is not measured.
const (
	// modulePatience is how long a scan waits for modules to be live, or gone. For
	// those whose code can run by then it goes on waiting, with half of the patience
	// that it has for locks: these modules wait for the same ones.
	modulePatience = 2 * time.Second
	// scanAgainWithin is how long a scan may have taken that is done again, without
	// what it waited for locks.
	scanAgainWithin = 10 * time.Second
)

// still is a [Machine] that may be one that never runs, such as a dump: waiting
// changes nothing there.
type still interface {
	Still() bool
}

// moduleAttempts is how often the list of modules is read: it may change while
// it is being read.
const moduleAttempts = 3

// listModules lists the modules, if it can when all are live.
func (c *collector) listModules() {
	list := func() {
		for range moduleAttempts {
			if c.modules, c.modulesErr = c.profile.Modules(); c.modulesErr == nil {
				break
			}
		}
		c.dormant = c.dormantOf(c.modules)
	}
	c.await(modulePatience, func() bool {
		list()
		return c.modulesErr != nil || !slices.ContainsFunc(c.modules, unsettled)
	})
	running := func(m kernel.LoadedModule) bool { return unsettled(m) && !c.dormant[m.At] }
	for until := time.Now().Add(lockPatience / 2); !c.still && !c.forLocks.over() && time.Now().Before(until); list() {
		if c.modulesErr != nil || !slices.ContainsFunc(c.modules, running) || c.forLocks.wait(c.ctx, lastingPause) != nil {
			break
		}
	}
}

// A module that the loader is not done with (MODULE_STATE_UNFORMED) may stay so for
// minutes: it waits for locks that others have. Up to 6.12 its memory is made
// executable only by complete_formation (kernel/module/main.c), and until then it is
// dormant: it lies in memory like any data, and there is no text to be judged. Where
// sections are in its account only after that. It counts as dormant by the page tables,
// not by its word, and linux.pagetables looks again: what is executable by then is not
// measured.

// dormantOf tells which of some modules are, by their struct module.
func (c *collector) dormantOf(modules []kernel.LoadedModule) map[mem.Virt]bool {
	out := make(map[mem.Virt]bool)
	for i := range modules {
		if c.isDormant(&modules[i]) {
			out[modules[i].At] = true
		}
	}
	return out
}

// isDormant reports whether a module is being loaded, has text, and nothing of all its
// memory can be executed.
func (c *collector) isDormant(m *kernel.LoadedModule) bool {
	if text, ok := m.Area(kernel.AreaText); m.Live || m.State == 2 /* MODULE_STATE_GOING */ || !ok || text.Size == 0 {
		return false
	}
	return !slices.ContainsFunc(m.Areas, func(a kernel.Area) bool {
		return a.Size > 0 && len(c.executable(a.Start&^(mem.PageSize-1), a.End())) > 0
	})
}

// await looks again and again until what it looks for is so, but no longer
// than it has patience, and returns how much of it is left.
func (c *collector) await(patience time.Duration, so func() bool) time.Duration {
	for until := time.Now().Add(patience); ; {
		if so() || c.still || time.Now().After(until) {
			return time.Until(until)
		}
		select {
		case <-c.ctx.Done():
			return 0
		case <-time.After(lastingPause):
		}
	}
}

// unsettled says that a module is being loaded or unloaded.
func unsettled(m kernel.LoadedModule) bool { return !m.Live }

// outrun reports whether there is a module now that the scan could not compare, or
// KVM's tables were not whole when they were read.
func (c *collector) outrun() bool {
	if c.still || c.profile == nil || c.modulesErr != nil {
		return false
	}
	if len(c.kvm) > 0 {
		if state, err := c.kvmState(); err != nil || state != 0 {
			return true
		}
	}
	list, err := c.profile.Modules()
	return err == nil && slices.ContainsFunc(list, func(now kernel.LoadedModule) bool {
		return !c.isDormant(&now) && !slices.ContainsFunc(c.modules, func(then kernel.LoadedModule) bool {
			return then.At == now.At && then.Name == now.Name && then.Live
		})
	})
}
