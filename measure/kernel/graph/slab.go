package graph

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Limits on what the target may claim of its allocator.
const (
	maxCaches  = 4096
	maxPartial = 1 << 22 // slabs on all lists of partly free ones
	maxNUMA    = 64      // NUMA nodes; Debian's kernels are built for 1024
)

// cache is one of the allocator's (mm/slub.c, struct kmem_cache).
type cache struct {
	at         uint64 // struct kmem_cache
	name       string
	size       uint64 // of a slot, bytes
	pad        uint64 // of a slot, before the object
	objectSize uint64
	merged     bool  // holds objects of several types
	typ        *Type // of its objects; nil if there is no one type
	live       int64
	reached    int64 // of typed caches
}

// slab is where a page of the allocator belongs.
type slab struct {
	cache *cache
	start uint64 // of its first object
	page  uint64 // struct page of the first, which is struct slab
}

// allocator finds the cache that an address belongs to.
type allocator struct {
	*reader
	directMap, pageTable uint64 // page_offset_base, vmemmap_base
	limit                uint64 // first address after the direct map's RAM

	pageSize, flags, compound, cacheAt, pageType uint64
	flag                                         uint64 // of a slab in flags, if pageType is not used
	slabType                                     uint32 // in pageType
	typeShift                                    uint

	fence kernel.Fence

	*freeLists // nil if it is not known which objects are free

	caches map[uint64]*cache // by struct kmem_cache
}

// newAllocator reads the list of caches. An error means that nothing is known
// of dynamic memory.
func newAllocator(p *kernel.Profile, r *reader, typeOf func(string) *Type) (*allocator, error) {
	a := &allocator{reader: r, caches: make(map[uint64]*cache)}
	if err := a.layout(p); err != nil {
		return nil, fmt.Errorf("slab allocator: %w", err)
	}
	if err := a.list(p, typeOf); err != nil {
		return nil, fmt.Errorf("slab allocator: %w", err)
	}
	return a, nil
}

func (a *allocator) layout(p *kernel.Profile) (err error) {
	if a.directMap, err = a.variable(p, "page_offset_base"); err != nil {
		return err
	}
	if a.pageTable, err = a.variable(p, "vmemmap_base"); err != nil {
		return err
	}
	for _, e := range p.Space.Memory().Extents() {
		a.limit = max(a.limit, a.directMap+uint64(e.End()))
	}
	if a.fence, err = p.Fence(); err != nil {
		return err
	}
	owner := "slab" // of its own since 5.17
	if !p.Types.Has("slab", "slab_cache") {
		owner = "page"
	}
	var err1, err2, err3, err4 error
	a.pageSize, err1 = p.Types.Size("page")
	a.cacheAt, err2 = p.Types.Offset(owner, "slab_cache")
	a.flags, err3 = p.Types.Offset("page", "flags")
	a.compound, err4 = p.Types.Offset("page", "compound_head")
	if err4 != nil {
		a.compound, err4 = p.Types.Offset("page", "compound_info") // since 7.0
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	return a.marks(p)
}

func (a *allocator) variable(p *kernel.Profile, name string) (uint64, error) {
	at, ok := p.Symbol(name)
	if !ok {
		return 0, fmt.Errorf("%w: no %s", kernel.ErrNoSymbols, name)
	}
	return a.u64(uint64(at))
}

// marks finds how a page says that it is a slab's: a flag (PG_slab, up to 6.9),
// or its type in the top byte (PGTY_slab, since 6.12; include/linux/page-flags.h).
func (a *allocator) marks(p *kernel.Profile) (err error) {
	if v, ok := p.Types.Enumerator("pageflags", "PG_slab"); ok && v < 64 {
		a.flag = 1 << v
		return nil
	}
	v, ok := p.Types.Enumerator("pagetype", "PGTY_slab")
	if !ok || v > 0xff {
		return fmt.Errorf("%w: neither PG_slab nor PGTY_slab", kernel.ErrNoTypes)
	}
	a.slabType, a.typeShift = uint32(v), 24
	a.pageType, err = p.Types.Offset("page", "page_type")
	return err
}

// list reads all caches (slab_caches, struct kmem_cache).
func (a *allocator) list(p *kernel.Profile, typeOf func(string) *Type) error {
	head, ok := p.Symbol("slab_caches")
	if !ok {
		return fmt.Errorf("%w: no slab_caches", kernel.ErrNoSymbols)
	}
	var o [5]uint64
	for i, name := range []string{"list", "name", "size", "object_size", "refcount"} {
		var err error
		if o[i], err = p.Types.Offset("kmem_cache", name); err != nil {
			return err
		}
	}
	count := newCounter(p)
	at, err := a.u64(uint64(head))
	for n := 0; err == nil && at != uint64(head); n++ {
		if n == maxCaches {
			return fmt.Errorf("%w: over %d caches", kernel.ErrListTooLong, maxCaches)
		}
		base := at - o[0]
		c := &cache{at: base}
		var name uint64
		var size, objectSize, references uint32
		var err1, err2, err3, err4 error
		name, err1 = a.u64(base + o[1])
		size, err2 = a.u32(base + o[2])
		objectSize, err3 = a.u32(base + o[3])
		references, err4 = a.u32(base + o[4])
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		if c.pad, err = p.SlabPad(mem.Virt(base)); err != nil {
			return err
		}
		if c.name, err = p.Space.CString(mem.Virt(name), 64); err != nil || size == 0 {
			return fmt.Errorf("cache at %#x has no name or size (%w)", base, err)
		}
		c.size, c.objectSize, c.merged = uint64(size), uint64(objectSize), references > 1
		c.live = count.live(a.reader, base)
		if t := typeOf(c.name); t != nil && t.end <= c.size-c.pad {
			c.typ = t
		}
		a.caches[base] = c
		at, err = a.u64(at)
	}
	return err
}

// counter counts a cache's objects as /proc/slabinfo does (mm/slub.c,
// get_slabinfo): all slots of its slabs but the free ones of slabs on the list of
// partly free ones. Slabs that a CPU holds count as full.
type counter struct {
	nodes, stride        uint64 // pointers to struct kmem_cache_node in struct kmem_cache
	total, partial, link uint64 // struct kmem_cache_node
	counters             uint64 // inuse:16, objects:15, frozen:1 of a slab
	known                bool
	left                 int // slabs that may still be looked at
}

func newCounter(p *kernel.Profile) counter {
	c := counter{left: maxPartial}
	owner := "slab"
	if !p.Types.Has("slab", "slab_cache") {
		owner = "page"
	}
	var err1, err2, err3, err4 error
	c.total, err1 = p.Types.Offset("kmem_cache_node", "total_objects")
	c.partial, err2 = p.Types.Offset("kmem_cache_node", "partial")
	c.link, err3 = p.Types.Offset(owner, "slab_list")
	c.counters, err4 = p.Types.Offset(owner, "counters")
	var err5, err6, err7 error
	c.stride = 8
	if c.nodes, err5 = p.Types.Offset("kmem_cache", "node"); err5 != nil { // each with another pointer, since 7.0
		var within uint64
		c.nodes, err5 = p.Types.Offset("kmem_cache", "per_node")
		within, err6 = p.Types.Offset("kmem_cache_per_node_ptrs", "node")
		c.stride, err7 = p.Types.Size("kmem_cache_per_node_ptrs")
		c.nodes += within
	}
	c.known = errors.Join(err1, err2, err3, err4, err5, err6, err7) == nil
	return c
}

// live counts the live objects of a cache: -1 if that cannot be told.
func (c *counter) live(r *reader, cache uint64) int64 {
	if !c.known {
		return -1
	}
	var live int64
	for i := range uint64(maxNUMA) {
		node, err := r.u64(cache + c.nodes + c.stride*i)
		if err != nil || !high(node) {
			break
		}
		total, err := r.u64(node + c.total)
		if err != nil || total > 1<<40 {
			return -1
		}
		live += int64(total)
		head := node + c.partial
		at, err := r.u64(head)
		for ; err == nil && at != head && c.left > 0; c.left-- {
			counters, err := r.u64(at - c.link + c.counters)
			if err != nil {
				break
			}
			inuse, objects := counters&0xffff, counters>>16&0x7fff
			if objects >= inuse {
				live -= int64(objects - inuse)
			}
			if at, err = r.u64(at); err != nil {
				break
			}
		}
	}
	return max(live, 0)
}

// find returns the slab that an address lies in, nil if it lies in none.
func (a *allocator) find(at uint64) *slab {
	if at < a.directMap || at >= a.limit {
		return nil
	}
	f := a.frame(at)
	if !f.placed {
		f.slab, f.placed = a.lookup(at&^(mem.PageSize-1)), true
	}
	return f.slab
}

func (a *allocator) lookup(page uint64) *slab {
	at := a.pageTable + (page-a.directMap)/mem.PageSize*a.pageSize
	head, err := a.u64(at + a.compound)
	if err != nil {
		return nil
	}
	if head&1 != 0 { // a page behind the first
		if head = a.head(at, head); head < a.pageTable || head >= at || (head-a.pageTable)%a.pageSize != 0 {
			return nil
		}
		page = a.directMap + (head-a.pageTable)/a.pageSize*mem.PageSize
		at = head
	}
	if a.flag != 0 {
		flags, err := a.u64(at + a.flags)
		if err != nil || flags&a.flag == 0 {
			return nil
		}
	} else if t, err := a.u32(at + a.pageType); err != nil || t>>a.typeShift != a.slabType {
		return nil
	}
	owner, err := a.u64(at + a.cacheAt)
	if err != nil {
		return nil
	}
	if _, ok := a.fence.Object(mem.Virt(page)); ok {
		return nil // the object may lie anywhere in the page: the pointer to it tells
	}
	c := a.caches[owner]
	if c == nil {
		return nil
	}
	return &slab{c, page + c.pad, at}
}

// head finds the first of the pages that belong together, from what one of the
// others says: its address, or since 7.0 the mask that makes it of the other's
// address (include/linux/page-flags.h, _compound_head). A mask is greater than
// any address of the table.
func (a *allocator) head(at, info uint64) uint64 {
	if info < at {
		return info - 1
	}
	return at & info
}

// slot returns the start of the object of s that at, which is not before the
// first, lies in or behind.
func (s *slab) slot(at uint64) uint64 {
	return at - (at-s.start)%s.cache.size
}
