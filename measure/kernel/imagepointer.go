package kernel

import "encoding/binary"

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
