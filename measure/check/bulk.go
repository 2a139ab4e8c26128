package check

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// bulk runs the collecting halves that take long and need nothing from the pause,
// beside the rest of a scan. Each is run by one goroutine, on a collector that no
// other uses.
type bulk struct {
	checks []check
	order  []int // of checks, the longest first
	obs    *measure.Observations

	next    atomic.Int32 // in order
	workers sync.WaitGroup
	mu      sync.Mutex
	pages   Pages // of all
}

// startBulk starts workers. One processor is left to the caller, who may pause the
// target, and works along afterwards.
func (c *collector) startBulk(checks []check, obs *measure.Observations) *bulk {
	b := &bulk{checks: checks, obs: obs, pages: make(Pages)}
	for i := range checks {
		if checks[i].bulk > 0 && checks[i].kind == c.kind {
			b.order = append(b.order, i)
		}
	}
	slices.SortStableFunc(b.order, func(i, j int) int { return cmp.Compare(checks[j].bulk, checks[i].bulk) })
	for range max(1, runtime.GOMAXPROCS(0)-1) {
		twin := c.twin()
		b.workers.Go(func() { b.work(twin) })
	}
	return b
}

// twin is a collector for another goroutine.
func (c *collector) twin() *collector {
	t := *c
	t.space, t.pages, t.symbols = c.root.Cached(), make(Pages), make(map[mem.Virt]symbolsOrError)
	return &t
}

// breathe is called often by what bulk takes long for: while the target stands
// still it waits. Where processors are short it would else be in the way of the VMM,
// which has to stop the target, answer, and let it go on.
func (c *collector) breathe() {
	if c.working {
		c.rests.RUnlock()
		c.rests.RLock()
	}
}

// rest has bulk wait until after is called.
func (c *collector) rest() (after func()) {
	c.rests.Lock()
	return c.rests.Unlock
}

// work runs what nobody has begun.
func (b *bulk) work(c *collector) {
	c.rests.RLock()
	defer c.rests.RUnlock()
	c.working = true
	for c.ctx.Err() == nil {
		n := int(b.next.Add(1)) - 1
		if n >= len(b.order) {
			break
		}
		i := b.order[n]
		b.obs.Items[i] = c.observe(b.checks[i])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pages) < len(c.pages) {
		b.pages, c.pages = c.pages, b.pages
	}
	maps.Copy(b.pages, c.pages)
}

// wait returns the pages of all, once all are done.
func (b *bulk) wait() Pages {
	b.workers.Wait()
	return b.pages
}

// addPages adds the more pages to the fewer.
func (c *collector) addPages(more Pages) {
	maps.Copy(more, c.pages)
	c.pages = more
}
