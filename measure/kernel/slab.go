package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// SlabCache is a cache of objects of one kind (struct kmem_cache).
type SlabCache struct {
	At    mem.Virt
	Size  uint64 // of an object's place, bytes
	Pad   uint64 // of these, before the object
	count uint64 // of objects in a full slab
}

// Limits on what the target may claim.
const (
	maxSlabObject  = 1 << 20
	maxSlabObjects = 1 << 16   // of one slab
	maxFound       = 4 << 20   // of all objects
	slabChunk      = 256 << 10 // of page descriptors read at a time
)

// ErrSlab means that objects of a cache are not where it says that they are.
var ErrSlab = errors.New("slab cache is not understood")

// SlabCache reads the cache that a variable of the kernel points to.
func (p *Profile) SlabCache(variable string) (SlabCache, error) {
	c, err := p.slabCache(variable)
	if err != nil {
		return c, fmt.Errorf("%s: %w", variable, err)
	}
	return c, nil
}

func (p *Profile) slabCache(variable string) (c SlabCache, err error) {
	symbol, ok := p.Symbol(variable)
	if !ok {
		return c, ErrNoSymbols
	}
	size, err1 := p.Types.Offset("kmem_cache", "size")
	order, err2 := p.Types.Offset("kmem_cache", "oo", "x")
	if err := errors.Join(err1, err2); err != nil {
		return c, err
	}
	at, err := p.Space.U64(symbol)
	if err != nil {
		return c, err
	}
	n, err1 := p.Space.U32(mem.Virt(at + size))
	oo, err2 := p.Space.U32(mem.Virt(at + order)) // order << 16 | objects
	if err := errors.Join(err1, err2); err != nil {
		return c, err
	}
	c = SlabCache{At: mem.Virt(at), Size: uint64(n), count: uint64(oo & 0xffff)}
	if c.Pad, err = p.SlabPad(c.At); err != nil {
		return c, err
	}
	if c.Size < 64 || c.Size > maxSlabObject || c.count == 0 || c.count > maxSlabObjects {
		return c, ErrSlab
	}
	return c, nil
}

// SlabObjects finds the places of the objects of some caches, whether anything
// is in them or not, by the descriptors of the target's touched pages
// (vmemmap; struct slab, or struct page before 5.17). No list of the kernel has
// to show them, and no pointer to lead there.
func (p *Profile) SlabObjects(caches ...SlabCache) ([][]mem.Virt, error) {
	out := make([][]mem.Virt, len(caches))
	w := slabWalk{Profile: p, caches: caches, out: out}
	if err := w.layout(); err != nil {
		return nil, fmt.Errorf("descriptors of pages: %w", err)
	}
	touched, err := mem.Touched(p.Space.Memory())
	if err != nil {
		return nil, err
	}
	for _, extent := range touched {
		if err := w.extent(extent); err != nil {
			return nil, fmt.Errorf("descriptors of pages: %w", err)
		}
	}
	return out, nil
}

// slabWalk goes through descriptors of pages.
type slabWalk struct {
	*Profile
	caches []SlabCache
	out    [][]mem.Virt
	found  int

	direct, descriptors mem.Virt // where RAM and the descriptors of all pages are mapped
	size, cache         uint64   // of a descriptor; where in it its cache is
	fence               Fence
}

func (w *slabWalk) layout() error {
	for name, into := range map[string]*mem.Virt{"page_offset_base": &w.direct, "vmemmap_base": &w.descriptors} {
		at, ok := w.Symbol(name)
		if !ok {
			return fmt.Errorf("%w: no %s", ErrNoSymbols, name)
		}
		value, err := w.Space.U64(at)
		if err != nil {
			return err
		}
		*into = mem.Virt(value)
	}
	var err error
	if w.fence, err = w.Fence(); err != nil {
		return err
	}
	if w.size, err = w.Types.Size("page"); err != nil {
		return err
	}
	if w.cache, err = w.Types.Offset("slab", "slab_cache"); err != nil {
		w.cache, err = w.Types.Offset("page", "slab_cache")
	}
	if err == nil && (w.size < 32 || w.size > 256 || w.cache+8 > w.size) {
		err = ErrSlab
	}
	return err
}

// extent looks at the pages of a range of RAM. What has no descriptor is no
// memory of the kernel's.
func (w *slabWalk) extent(e mem.Extent) error {
	first := uint64(e.Start) / mem.PageSize
	last := (uint64(e.End()) + mem.PageSize - 1) / mem.PageSize
	step := slabChunk / w.size
	buf := make([]byte, step*w.size)
	for ; first < last; first += step {
		n := min(step, last-first)
		part := buf[:n*w.size]
		if w.Space.Read(part, w.descriptors+mem.Virt(first*w.size)) != nil {
			continue
		}
		for i := range n {
			at := binary.LittleEndian.Uint64(part[i*w.size+w.cache:])
			for k := range w.caches {
				if mem.Virt(at) == w.caches[k].At {
					if err := w.slab(k, first+i); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (w *slabWalk) slab(k int, page uint64) error {
	c := &w.caches[k]
	if at, ok := w.fence.Object(w.direct + mem.Virt(page*mem.PageSize)); ok {
		w.out[k] = append(w.out[k], at)
		return nil
	}
	if w.found += int(c.count); w.found > maxFound {
		return ErrListTooLong
	}
	for i := range c.count {
		w.out[k] = append(w.out[k], w.direct+mem.Virt(page*mem.PageSize+i*c.Size+c.Pad))
	}
	return nil
}
