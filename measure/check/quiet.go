package check

import (
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A kernel that patches its text first puts a breakpoint where it will, and
// takes text_mutex for that long (arch/x86/kernel/alternative.c,
// text_poke_bp_batch): text that is read meanwhile is half patched. So each page
// is read between two looks at the lock. Taking and releasing it takes longer
// than reading a page does, with an interrupt to each CPU in between.

var errPatching = errors.New("the kernel was patching its text all the time")

// Bounds of waiting for the lock: tracing all functions takes a second or more
// on a slow machine.
const (
	patchingPause = 2 * time.Millisecond
	maxPatching   = 10 * time.Second
)

// textRegion reads text as region does, each page while nobody patches text.
func (c *collector) textRegion(name string, start, end mem.Virt) (region, error) {
	at, ok := c.profile.Symbol("text_mutex")
	owner, err := c.profile.Types.Offset("mutex", "owner")
	if !ok || err != nil { // the kernel has another kind of lock
		return c.region(name, start, end)
	}
	q := quiet{collector: c, lock: at + mem.Virt(owner)}
	r, err := c.readRegion(name, start, end, q.read)
	return r, errors.Join(err, q.err)
}

// quiet reads memory while a lock is free.
type quiet struct {
	*collector
	lock   mem.Virt
	waited time.Duration
	err    error // why nothing more is read
}

func (q *quiet) read(p []byte, at mem.Virt) error {
	for q.err == nil {
		before, err1 := q.space.U64(q.lock)
		err := q.space.Read(p, at)
		after, err2 := q.space.U64(q.lock)
		if q.err = errors.Join(err1, err2); q.err != nil || before == 0 && after == 0 {
			return err
		}
		if q.waited += patchingPause; q.waited > maxPatching {
			q.err = errPatching
		}
		select {
		case <-q.ctx.Done():
			q.err = q.ctx.Err()
		case <-time.After(patchingPause):
		}
	}
	return q.err
}
