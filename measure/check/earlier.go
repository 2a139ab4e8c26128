package check

import (
	"sync"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// earlier keeps pages of a kernel's regions as the last scan found them. A page that is
// still the same is compared with those bytes, and neither copied nor hashed again: it
// has the digest that was computed of them. It lives as long as the kernel's profile is
// kept, and only saves work.
type earlier struct {
	mu      sync.Mutex
	regions map[earlierKey]*earlierRegion
	pages   int
	tick    uint64
}

type earlierKey struct {
	name  string
	start address
	pages int
}

type earlierRegion struct {
	pages []keptPage
	used  uint64 // tick
}

// keptPage has no bytes if it could not be read. Nobody changes the bytes.
type keptPage struct {
	digest Digest
	bytes  []byte
}

// maxEarlier bounds what is kept of one kernel, in pages: 64 MiB. The text, tables and
// data of one with its modules take about 30.
const maxEarlier = 64 << 20 / mem.PageSize

type earlierOf struct{}

func newEarlier() *earlier { return &earlier{regions: make(map[earlierKey]*earlierRegion)} }

// earlier is nil for a Xen, and new where the profile is not kept.
func (c *collector) earlier() *earlier {
	if c.profile == nil {
		return nil
	}
	return c.profile.Derived(earlierOf{}, func() any { return newEarlier() }).(*earlier)
}

func keyOf(r *region) earlierKey { return earlierKey{r.Name, r.Start, r.pages()} }

// of returns the pages of a region, nil if there are none.
func (e *earlier) of(r *region) []keptPage {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := e.regions[keyOf(r)]
	if kept == nil {
		return nil
	}
	e.tick++
	kept.used = e.tick
	return kept.pages
}

// keep keeps the pages of a region in place of those it had, and of those regions that
// nobody asked for for longest.
func (e *earlier) keep(r *region, from Pages) {
	if e == nil || r.pages() > maxEarlier {
		return
	}
	pages := make([]keptPage, r.pages())
	for i := range pages {
		if d, ok := r.digest(i); ok {
			pages[i] = keptPage{d, from[d]}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drop(keyOf(r))
	for e.pages+len(pages) > maxEarlier {
		var oldest earlierKey
		last := ^uint64(0)
		for key, kept := range e.regions {
			if kept.used < last {
				oldest, last = key, kept.used
			}
		}
		e.drop(oldest)
	}
	e.tick++
	e.regions[keyOf(r)] = &earlierRegion{pages, e.tick}
	e.pages += len(pages)
}

func (e *earlier) drop(key earlierKey) {
	if kept := e.regions[key]; kept != nil {
		e.pages -= len(kept.pages)
		delete(e.regions, key)
	}
}
