package kernel

import (
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

// CodeSlot is a place in data that the file makes a pointer to code. Addresses
// are those of the running kernel.
type CodeSlot struct {
	At     mem.Virt
	Target mem.Virt // what the file has there
}

// CodeSlots lists the pointers to the kernel's text, init text left out, that
// the file has in [from, to), in ascending order. Both are addresses of a kernel
// that runs slide higher than it was linked.
func (img *Image) CodeSlots(from, to mem.Virt, slide uint64) []CodeSlot {
	start, ok1 := img.Symbols.Address("_stext")
	end, ok2 := img.Symbols.Address("_etext")
	if !ok1 || !ok2 {
		return nil
	}
	first, last := uint64(from)-slide, uint64(to)-slide
	i, _ := slices.BinarySearch(img.relocs.abs64, uint32(first))
	var out []CodeSlot
	for ; i < len(img.relocs.abs64); i++ {
		at := uint64(int64(int32(img.relocs.abs64[i])))
		if at < first || at+8 > last {
			break
		}
		b := img.At(at, 8)
		if len(b) < 8 {
			continue
		}
		if target := binary.LittleEndian.Uint64(b); target >= start && target < end {
			out = append(out, CodeSlot{mem.Virt(at + slide), mem.Virt(target + slide)})
		}
	}
	return out
}
