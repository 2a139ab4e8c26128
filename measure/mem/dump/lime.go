package dump

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A LiME file is ranges, each after its header (LiME, lime.h,
// lime_mem_range_header): magic, version 1, first and last address, 8 bytes
// reserved.
const (
	limeMagic  = "EMiL" // 0x4c694d45, little-endian
	limeHeader = 32
)

func openLiME(src *source) (mem.Reader, error) {
	var parts []filed
	for at := uint64(0); at < src.size; {
		var b [limeHeader]byte
		if err := src.read(b[:], at); err != nil {
			return nil, fmt.Errorf("header of range %d: %w", len(parts), err)
		}
		c := bin.Little(b[:])
		magic, version, first, last := string(c.Bytes(4)), c.U32(), c.U64(), c.U64()
		switch {
		case magic != limeMagic:
			return nil, fmt.Errorf("%w: no header at offset %#x", ErrFormat, at)
		case version != 1:
			return nil, fmt.Errorf("%w: version %d", ErrNotSupported, version)
		case last < first || last-first >= 1<<62 || len(parts) == maxRanges:
			return nil, fmt.Errorf("%w: range %d is %#x to %#x", ErrFormat, len(parts), first, last)
		}
		p := filed{mem.Extent{Start: mem.Phys(first), Size: last - first + 1}, at + limeHeader}
		parts = append(parts, p)
		if at = p.offset + p.Size; at > src.size {
			break // newRanges says what is missing
		}
	}
	return newRanges(src, parts)
}
