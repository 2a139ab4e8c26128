package kernel

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Pointer returns the pointer that the image has at an address of its constant
// data, both as they are when the kernel runs slide higher than it was linked.
// It is false where the image holds nothing or no address of the kernel.
func (img *Image) Pointer(at, slide uint64) (uint64, bool) {
	b := img.At(at-slide, 8)
	if len(b) < 8 {
		return 0, false
	}
	value := binary.LittleEndian.Uint64(b)
	if value < uint64(imageFirst) {
		return 0, false
	}
	return value + slide, true
}

// PointerSlot is a place in data that the file makes a pointer. Addresses are those
// of the running kernel.
type PointerSlot struct {
	At     mem.Virt
	Target mem.Virt // what the file has there
	Table  bool     // that is a constant table of functions; else code
	Fixed  bool     // nothing changes it while the kernel runs
}

// CodeSlots lists the pointers to the kernel's text, init text left out, that
// the file has in [from, to), in ascending order. Both are addresses of a kernel
// that runs slide higher than it was linked.
func (img *Image) CodeSlots(from, to mem.Virt, slide uint64) []PointerSlot {
	img.made.slots.Do(func() { img.made.codeSlots = img.findCodeSlots() })
	all := img.made.codeSlots
	before := func(s PointerSlot, at mem.Virt) int { return cmp.Compare(s.At, at) }
	first, _ := slices.BinarySearchFunc(all, from-mem.Virt(slide), before)
	last, _ := slices.BinarySearchFunc(all, to-mem.Virt(slide)-7, before)
	out := slices.Clone(all[first:max(first, last)])
	for i := range out {
		out[i].At += mem.Virt(slide)
		out[i].Target += mem.Virt(slide)
	}
	return out
}

// findCodeSlots lists all of them at the addresses they are linked for.
func (img *Image) findCodeSlots() []PointerSlot {
	start, ok1 := img.Symbols.Address("_stext")
	end, ok2 := img.Symbols.Address("_etext")
	if !ok1 || !ok2 {
		return nil
	}
	var out []PointerSlot
	for _, low := range img.relocs.abs64 {
		at := uint64(int64(int32(low)))
		b := img.At(at, 8)
		if len(b) < 8 {
			continue
		}
		if target := binary.LittleEndian.Uint64(b); target >= start && target < end {
			out = append(out, PointerSlot{At: mem.Virt(at), Target: mem.Virt(target)})
		}
	}
	slices.SortStableFunc(out, func(a, b PointerSlot) int { return cmp.Compare(a.At, b.At) })
	return out
}
