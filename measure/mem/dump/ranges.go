package dump

import (
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxRanges bounds the ranges of RAM in one dump. A large machine has dozens.
const maxRanges = 1 << 16

// filed is a range of RAM that lies in one piece in a file.
type filed struct {
	mem.Extent
	offset uint64
}

// ranges is RAM in pieces of a file. It implements [mem.Reader].
type ranges struct {
	src     *source
	parts   []filed
	extents []mem.Extent
}

// newRanges takes ranges in any order; they must lie in the file and must not
// overlap in the target.
func newRanges(src *source, parts []filed) (*ranges, error) {
	if len(parts) == 0 {
		return nil, fmt.Errorf("%w: it holds no RAM", ErrFormat)
	}
	sort.Slice(parts, func(i, j int) bool { return parts[i].Start < parts[j].Start })
	var last mem.Phys
	for i, p := range parts {
		if p.Size == 0 || p.End() < p.Start {
			return nil, fmt.Errorf("%w: range of %#x bytes at %v", ErrFormat, p.Size, p.Start)
		}
		if i > 0 && p.Start < last {
			return nil, fmt.Errorf("%w: ranges overlap at %v", ErrFormat, p.Start)
		}
		last = p.End()
		if p.offset > src.size || p.Size > src.size-p.offset {
			return nil, fmt.Errorf("RAM at %v: %#x bytes at offset %#x of %#x: %w", p.Start, p.Size, p.offset, src.size, io.ErrUnexpectedEOF)
		}
	}
	r := &ranges{src: src, parts: parts}
	for _, p := range parts {
		r.extents = appendExtent(r.extents, p.Extent)
	}
	return r, nil
}

// appendExtent appends e, to the last extent if it follows it.
func appendExtent(extents []mem.Extent, e mem.Extent) []mem.Extent {
	if n := len(extents); n > 0 && extents[n-1].End() == e.Start {
		extents[n-1].Size += e.Size
		return extents
	}
	return append(extents, e)
}

// ReadPhys implements [mem.Reader].
func (r *ranges) ReadPhys(b []byte, at mem.Phys) error {
	for len(b) > 0 {
		i := sort.Search(len(r.parts), func(i int) bool { return r.parts[i].End() > at })
		if i == len(r.parts) || r.parts[i].Start > at {
			return fmt.Errorf("physical %v: %w", at, mem.ErrNotMapped)
		}
		p := r.parts[i]
		n := min(uint64(len(b)), uint64(p.End()-at))
		if err := r.src.read(b[:n], p.offset+uint64(at-p.Start)); err != nil {
			return fmt.Errorf("physical %v: %w", at, err)
		}
		b = b[n:]
		at += mem.Phys(n)
	}
	return nil
}

// Extents implements [mem.Reader].
func (r *ranges) Extents() []mem.Extent { return slices.Clone(r.extents) }
