package check

import (
	"container/list"
	"sync"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// earlier keeps pages of a kernel's regions as the last scan found them. A page that is
// still the same is compared with those bytes, and neither copied nor hashed again: it
// has the digest that was computed of them. It lives as long as the kernel's profile is
// kept, and only saves work.
type earlier struct {
	mu      sync.Mutex
	regions map[earlierKey]*list.Element // in latest
	latest  list.List                    // of earlierRegion, the one that was asked for last first
	pages   int
}

type earlierKey struct {
	name  string
	start address
	pages int
}

type earlierRegion struct {
	key   earlierKey
	pages []keptPage
}

// keptPage has no bytes if it could not be read. Nobody changes the bytes. They lie in
// memory that pages of the same region's same piece (hashedAtOnce) were read into, and
// no others: what is held for a page that stays is bounded by that.
type keptPage struct {
	digest Digest
	bytes  []byte
}

// maxEarlier bounds what is kept of one kernel, in pages: 64 MiB, and as much again at
// most by what changed in pieces of which some pages stay (otherAtOnce). The text,
// tables and data of one with its modules take about 30.
const maxEarlier = 64 << 20 / mem.PageSize

type earlierOf struct{}

func newEarlier() *earlier { return &earlier{regions: make(map[earlierKey]*list.Element)} }

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
	e.latest.MoveToFront(kept)
	return kept.Value.(earlierRegion).pages
}

// keep keeps the pages of a region in place of those it had, and of those regions that
// nobody asked for for longest.
func (e *earlier) keep(r *region, pages []keptPage) {
	if e == nil || len(pages) == 0 || len(pages) > maxEarlier {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	key := keyOf(r)
	if kept := e.regions[key]; kept != nil {
		e.drop(kept)
	}
	for e.pages+len(pages) > maxEarlier {
		e.drop(e.latest.Back())
	}
	e.regions[key] = e.latest.PushFront(earlierRegion{key, pages})
	e.pages += len(pages)
}

func (e *earlier) drop(kept *list.Element) {
	r := e.latest.Remove(kept).(earlierRegion)
	e.pages -= len(r.pages)
	delete(e.regions, r.key)
}
