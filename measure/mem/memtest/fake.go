package memtest

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Pages is a small memory for tests, by page-aligned address. It is a
// [mem.Reader] whose RAM is exactly the pages it has.
type Pages map[mem.Phys]*[mem.PageSize]byte

// Write puts bytes at an address and makes the pages they need.
func (p Pages) Write(at mem.Phys, b ...byte) {
	for i, v := range b {
		a := at + mem.Phys(i)
		page := a &^ (mem.PageSize - 1)
		if p[page] == nil {
			p[page] = new([mem.PageSize]byte)
		}
		p[page][a-page] = v
	}
}

// WriteU64 puts a little-endian integer at an address.
func (p Pages) WriteU64(at mem.Phys, v uint64) {
	for i := range 8 {
		p.Write(at+mem.Phys(i), byte(v>>(8*i)))
	}
}

// ReadPhys implements [mem.Reader].
func (p Pages) ReadPhys(b []byte, at mem.Phys) error {
	for i := 0; i < len(b); {
		a := at + mem.Phys(i)
		page := p[a&^(mem.PageSize-1)]
		if page == nil || a < at {
			return fmt.Errorf("physical %v: %w", a, mem.ErrNotMapped)
		}
		i += copy(b[i:], page[a&(mem.PageSize-1):])
	}
	return nil
}

// Extents implements [mem.Reader].
func (p Pages) Extents() []mem.Extent {
	var out []mem.Extent
	var starts []mem.Phys
	for at := range p {
		starts = append(starts, at)
	}
	slices.Sort(starts)
	for _, at := range starts {
		if n := len(out); n > 0 && out[n-1].End() == at {
			out[n-1].Size += mem.PageSize
			continue
		}
		out = append(out, mem.Extent{Start: at, Size: mem.PageSize})
	}
	return out
}
