package graph

import (
	"errors"
	"math/bits"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Limits on what the target may claim of free objects.
const (
	maxSheaf  = 1 << 10 // objects
	maxSheafs = 64      // full ones of a node; the kernel keeps 10 (mm/slub.c, MAX_FULL_SHEAVES)
)

// freeLists is where the allocator keeps free objects (mm/slub.c): on a list of
// each slab, which a CPU takes over for itself up to 6.19, and since 7.0 in
// arrays of each CPU and node, called sheaves. The list runs through the objects:
// the pointer to the next is at an offset of each, and hidden
// (CONFIG_SLAB_FREELIST_HARDENED; as here since 5.7).
type freeLists struct {
	freelist, counters uint64 // struct slab, or page up to 5.16
	offset, random     uint64 // struct kmem_cache
	hardened           bool

	perCPU         uint64 // struct kmem_cache: pointer to struct kmem_cache_cpu of each CPU
	cpuList, cpuOf uint64 // struct kmem_cache_cpu: its list, and the slab that is of

	sheaves            []uint64 // struct slub_percpu_sheaves: pointers to struct slab_sheaf
	size, objects      uint64   // struct slab_sheaf
	nodes, stride      uint64   // struct kmem_cache: pointers to struct node_barn
	sheavesFull, links uint64   // struct node_barn; struct slab_sheaf

	cpus []mem.Virt
}

// newFreeLists finds where this kernel keeps free objects.
func newFreeLists(p *kernel.Profile) (*freeLists, error) {
	f := &freeLists{}
	owner := "slab"
	if !p.Types.Has("slab", "slab_cache") {
		owner = "page"
	}
	err := f.offsets(p, map[string]*uint64{
		owner + ".freelist": &f.freelist, owner + ".counters": &f.counters, "kmem_cache.offset": &f.offset,
	})
	if f.hardened = p.Types.Has("kmem_cache", "random"); f.hardened {
		err = errors.Join(err, f.offsets(p, map[string]*uint64{"kmem_cache.random": &f.random}))
	}
	var err1 error
	f.cpus, err1 = p.PerCPU()
	if err := errors.Join(err, err1); err != nil {
		return nil, err
	}
	if p.Types.Has("kmem_cache", "cpu_sheaves") {
		return f, f.sheafOffsets(p)
	}
	return f, f.offsets(p, map[string]*uint64{
		"kmem_cache.cpu_slab": &f.perCPU, "kmem_cache_cpu.freelist": &f.cpuList, "kmem_cache_cpu." + owner: &f.cpuOf,
	})
}

func (f *freeLists) sheafOffsets(p *kernel.Profile) error {
	f.sheaves = make([]uint64, 3)
	var within uint64
	err := f.offsets(p, map[string]*uint64{
		"kmem_cache.cpu_sheaves": &f.perCPU, "slub_percpu_sheaves.main": &f.sheaves[0], "slub_percpu_sheaves.spare": &f.sheaves[1],
		"slub_percpu_sheaves.rcu_free": &f.sheaves[2], "slab_sheaf.size": &f.size, "slab_sheaf.objects": &f.objects,
		"slab_sheaf.barn_list": &f.links, "node_barn.sheaves_full": &f.sheavesFull,
		"kmem_cache.per_node": &f.nodes, "kmem_cache_per_node_ptrs.barn": &within,
	})
	f.nodes += within
	var err1 error
	f.stride, err1 = p.Types.Size("kmem_cache_per_node_ptrs")
	return errors.Join(err, err1)
}

func (f *freeLists) offsets(p *kernel.Profile, into map[string]*uint64) error {
	var errs []error
	for path, at := range into {
		var err error
		owner, member, _ := strings.Cut(path, ".")
		if *at, err = p.Types.Offset(owner, member); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// free reports whether an address lies in an object that the allocator keeps as
// free. What it cannot tell is not free.
func (a *allocator) free(at uint64) bool {
	s := a.find(at)
	if s == nil || at < s.start || a.freeLists == nil {
		return false
	}
	want := s.slot(at)
	if first, err := a.u64(s.page + a.freeLists.freelist); err == nil && a.listed(s, first, want) {
		return true
	}
	perCPU, err := a.u64(s.cache.at + a.freeLists.perCPU)
	if err != nil || perCPU == 0 {
		return false
	}
	for _, base := range a.cpus {
		cpu := uint64(base) + perCPU
		if a.sheaves == nil && a.cpuHas(s, cpu, want) {
			return true
		}
		for _, member := range a.sheaves {
			if sheaf, err := a.u64(cpu + member); err == nil && a.sheafHas(sheaf, want) {
				return true
			}
		}
	}
	return a.sheaves != nil && a.barnsHave(s, want)
}

// cpuHas reports whether an object is on the list that a CPU took over.
func (a *allocator) cpuHas(s *slab, cpu, want uint64) bool {
	of, err1 := a.u64(cpu + a.cpuOf)
	first, err2 := a.u64(cpu + a.cpuList)
	return err1 == nil && err2 == nil && of == s.page && a.listed(s, first, want)
}

// listed follows a list of free objects of one slab.
func (a *allocator) listed(s *slab, at, want uint64) bool {
	counters, err := a.u64(s.page + a.counters)
	random := uint64(0)
	if err == nil && a.hardened {
		random, err = a.u64(s.cache.at + a.random)
	}
	offset, err1 := a.u32(s.cache.at + a.offset)
	if err != nil || err1 != nil {
		return false
	}
	objects := counters >> 16 & 0x7fff
	for range objects {
		if at < s.start || at >= s.start+objects*s.cache.size || s.slot(at) != at {
			return false // the end, or torn
		}
		if at == want {
			return true
		}
		place := at + uint64(offset)
		next, err := a.u64(place)
		if err != nil {
			return false
		}
		if a.hardened { // freelist_ptr_decode
			next ^= random ^ bits.ReverseBytes64(place)
		}
		at = next
	}
	return false
}

// sheafHas reports whether an object is one of a sheaf's.
func (a *allocator) sheafHas(sheaf, want uint64) bool {
	if !high(sheaf) {
		return false
	}
	count, err := a.u32(sheaf + a.size)
	if err != nil || count > maxSheaf {
		return false
	}
	for i := range uint64(count) {
		if at, err := a.u64(sheaf + a.objects + 8*i); err != nil || at == want {
			return err == nil
		}
	}
	return false
}

// barnsHave reports whether an object is in one of the full sheaves of the nodes.
func (a *allocator) barnsHave(s *slab, want uint64) bool {
	for node := range uint64(maxNUMA) {
		barn, err := a.u64(s.cache.at + a.freeLists.nodes + a.freeLists.stride*node)
		if err != nil || !high(barn) {
			break
		}
		head := barn + a.sheavesFull
		at, err := a.u64(head)
		for n := 0; err == nil && at != head && high(at) && n < maxSheafs; n++ {
			if a.sheafHas(at-a.links, want) {
				return true
			}
			at, err = a.u64(at)
		}
	}
	return false
}
