package kernel

import (
	"errors"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// SlabPad returns how many bytes of a cache's places lie before the object: the
// red zone, if slab_debug asked for one (mm/slub.c, fixup_red_left; as here in
// 5.10 to 7.2).
func (p *Profile) SlabPad(cache mem.Virt) (uint64, error) {
	pad, err := p.Types.Offset("kmem_cache", "red_left_pad")
	if err != nil {
		return 0, nil // built without such help (CONFIG_SLUB_DEBUG)
	}
	flags, err1 := p.Types.Offset("kmem_cache", "flags")
	size, err2 := p.Types.Offset("kmem_cache", "size")
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	set, err1 := p.Space.U32(cache + mem.Virt(flags))
	bytes, err2 := p.Space.U32(cache + mem.Virt(pad))
	whole, err3 := p.Space.U32(cache + mem.Virt(size))
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	if set>>p.redZoneBit()&1 == 0 { // given up for larger objects, the pad being set
		return 0, nil
	}
	if bytes >= whole || bytes%8 != 0 {
		return 0, ErrSlab
	}
	return uint64(bytes), nil
}

// redZoneBit is where SLAB_RED_ZONE is in the flags of a cache: a number of an
// enumeration since 6.9, 0x400 before (include/linux/slab.h).
func (p *Profile) redZoneBit() uint64 {
	if bit, ok := p.Types.Enumerator("_slab_flag_bits", "_SLAB_RED_ZONE"); ok && bit < 32 {
		return bit
	}
	return 10
}

// Fence is the pool of KFENCE, which puts some objects of all caches each into a
// page of its own, at any place there (mm/kfence/core.c). Its zero value is that
// of a kernel that has none, or booted without (kfence.sample_interval=0).
type Fence struct {
	p           *Profile
	pool, first mem.Virt
	size, at    uint64 // struct kfence_metadata
}

// maxFenced is the greatest CONFIG_KFENCE_NUM_OBJECTS (lib/Kconfig.kfence).
const maxFenced = 65535

// Fence finds the pool.
func (p *Profile) Fence() (f Fence, err error) {
	variable, ok := p.Symbol("__kfence_pool")
	metadata, known := p.Symbol("kfence_metadata")
	if !ok || !known {
		return f, nil
	}
	pool, err := p.Space.U64(variable)
	if err != nil || pool == 0 {
		return f, err
	}
	f.p, f.pool, f.first = p, mem.Virt(pool), metadata
	var err1, err2 error
	f.size, err1 = p.Types.Size("kfence_metadata")
	f.at, err2 = p.Types.Offset("kfence_metadata", "addr")
	if err := errors.Join(err1, err2); err != nil {
		return Fence{}, err
	}
	if _, isPointer := p.Symbol("kfence_metadata_init"); isPointer { // an array up to 6.5
		first, err := p.Space.U64(metadata)
		if err != nil {
			return Fence{}, err
		}
		f.first = mem.Virt(first)
	}
	return f, nil
}

// Object returns the object in a page of the pool, if the page is one of it and
// had one.
func (f Fence) Object(page mem.Virt) (mem.Virt, bool) {
	if f.p == nil || page < f.pool+2*mem.PageSize {
		return 0, false
	}
	// Two pages for each object: a guard, and the object's. The first two are guards.
	n := uint64(page-f.pool)/(2*mem.PageSize) - 1
	if n >= maxFenced {
		return 0, false
	}
	at, err := f.p.Space.U64(f.first + mem.Virt(n*f.size+f.at))
	if err != nil || mem.Virt(at)&^(mem.PageSize-1) != page {
		return 0, false
	}
	return mem.Virt(at), true
}
