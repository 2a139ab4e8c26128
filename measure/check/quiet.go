package check

import (
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A kernel that patches its text first puts a breakpoint where it will, and
// takes text_mutex for that long (arch/x86/kernel/alternative.c,
// text_poke_bp_batch): text that is read meanwhile is half patched. The sites of
// a static call follow one by one what its key already says, under
// static_call_mutex (kernel/static_call_inline.c). So each page is read between
// two looks at the locks. Taking and releasing one takes longer than reading a
// page does, with an interrupt to each CPU in between.
//
// Some hold the lock for longer than a scan may wait, and patch nothing most of that
// time: kprobe_optimizer waits for every task to schedule (kernel/kprobes.c, 6.1). What
// is read then is read, and noted as held. Held text has to be the same in two whole
// readings: so it was there like that at one moment, between them. It is judged like
// all text, and what is explained is explained, whoever has the lock. But what is not
// may be half of a patch: a difference there is not measured, and no finding.

var errPatching = errors.New("the kernel was patching its text all the time")

// Bounds of waiting for locks, those of tracepoints too: tracing all functions takes
// a second or more on a slow machine. When a scan has no patience left, what it can
// read at once is read.
const (
	patchingPause = 2 * time.Millisecond
	lockPatience  = 10 * time.Second
)

// textRegion reads text as region does, each page while nobody patches text where that
// can be had, and all of it again if some was held.
func (c *collector) textRegion(name string, start, end mem.Virt) (region, error) {
	q := c.quiet()
	r, err := c.readRegion(name, start, end, q)
	if err := errors.Join(err, q.err); err != nil {
		return r, err
	}
	r.Held = q.held
	for again := 0; len(r.Held) > 0; again++ {
		if again == textRetries {
			return r, errPatching
		}
		if same, err := c.refresh(&r); err != nil || same {
			return r, err
		}
	}
	return r, nil
}

// refresh reads a region of text again, each page while nobody patches text where that
// can be had, takes what is different now, and reports whether nothing was. Text that
// was patched and patched back while it was read is different.
func (c *collector) refresh(r *region) (same bool, err error) {
	q := c.quiet()
	defer func() { r.Held = q.held }()
	same = true
	for i := range r.pages() {
		if i%hashedAtOnce == 0 {
			c.breathe()
		}
		d, ok := r.digest(i)
		if page := c.pages[d]; ok && page != nil {
			if equal, err := q.Equal(page, r.page(i)); equal && err == nil {
				continue
			}
		}
		r.set(i, Digest{})
		now := make([]keptPage, 1)
		c.readAnew(r, i, now, q)
		if ok || now[0].bytes != nil {
			same = false
		}
		if q.err != nil {
			return false, q.err
		}
	}
	return same, nil
}

// quiet reads memory while some locks are free, as long as there is patience for it.
type quiet struct {
	*collector
	locks []mem.Virt
	held  []address // pages that were read while one was not
	err   error     // why nothing more is read
}

func (c *collector) quiet() *quiet {
	q := &quiet{collector: c}
	owner, err := c.profile.Types.Offset("mutex", "owner")
	for _, name := range []string{"text_mutex", "static_call_mutex"} {
		if at, ok := c.profile.Symbol(name); ok && err == nil {
			q.locks = append(q.locks, at+mem.Virt(owner))
		}
	}
	return q
}

func (q *quiet) free() bool {
	for _, at := range q.locks {
		owner, err := q.space.U64(at)
		if q.err = errors.Join(q.err, err); owner != 0 || err != nil {
			return false
		}
	}
	return true
}

// Read implements [source].
func (q *quiet) Read(p []byte, at mem.Virt) error {
	return q.look(at, func() error { return q.space.Read(p, at) })
}

// Equal implements [source].
func (q *quiet) Equal(p []byte, at mem.Virt) (equal bool, err error) {
	err = q.look(at, func() (err error) { equal, err = q.space.Equal(p, at); return err })
	return equal, err
}

// look looks at a page.
func (q *quiet) look(at mem.Virt, look func() error) error {
	for q.err == nil {
		before := q.free()
		err := look()
		if q.free() && before {
			return err
		}
		if q.err == nil && (q.still || q.forLocks.over()) {
			if n := len(q.held); n == 0 || q.held[n-1] != address(at) {
				q.held = append(q.held, address(at))
			}
			return err
		}
		q.err = errors.Join(q.err, q.forLocks.wait(q.ctx, patchingPause))
		q.breathe()
	}
	return q.err
}
