package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// relocs are the places of a kernel image that change with the address it runs
// at, ascending within each kind. An address is kept as its low 32 bits, as the
// build writes it: the upper half is all ones.
type relocs struct {
	abs32   []uint32 // 32-bit values that grow with the address
	minus32 []uint32 // 32-bit values that shrink: distances to per-CPU data (to 6.14)
	abs64   []uint32 // 64-bit values
}

// maxRelocs bounds a table: Debian's largest have 250,000 entries.
const maxRelocs = 4 << 20

// parseRelocs reads the tables that arch/x86/tools/relocs appends to vmlinux:
// from the end backwards the 32-bit ones, the inverse 32-bit ones (up to 6.14)
// and the 64-bit ones, each ended by a zero (arch/x86/boot/compressed/misc.c,
// handle_relocations). tail is what follows the ELF file.
func parseRelocs(tail []byte) (*relocs, error) {
	var tables [][]uint32
	for len(tables) < 3 && len(tail) >= 4 {
		var table []uint32
		for {
			if len(tail) < 4 {
				return nil, fmt.Errorf("%w: relocation table without an end", ErrFormat)
			}
			v := binary.LittleEndian.Uint32(tail[len(tail)-4:])
			tail = tail[:len(tail)-4]
			if v == 0 {
				break
			}
			if len(table) == maxRelocs {
				return nil, fmt.Errorf("%w: over %d relocations", ErrTooLarge, maxRelocs)
			}
			table = append(table, v)
		}
		slices.Sort(table)
		tables = append(tables, table)
	}
	switch len(tables) {
	case 2: // 6.15 and later have no inverse table
		return &relocs{abs32: tables[0], abs64: tables[1]}, nil
	case 3:
		return &relocs{abs32: tables[0], minus32: tables[1], abs64: tables[2]}, nil
	}
	return nil, fmt.Errorf("%w: no relocation tables after the ELF file", ErrFormat)
}

// apply moves data, linked to run at addr, by slide.
func (r *relocs) apply(data []byte, addr, slide uint64) {
	r.each(data, addr, func(field []byte, sign uint64) {
		if len(field) == 8 {
			binary.LittleEndian.PutUint64(field, binary.LittleEndian.Uint64(field)+slide)
		} else {
			binary.LittleEndian.PutUint32(field, binary.LittleEndian.Uint32(field)+uint32(sign*slide))
		}
	})
}

// each calls f with every field of data, linked to run at addr, that a
// relocation names; sign is 1, or minus 1 for an inverse relocation.
func (r *relocs) each(data []byte, addr uint64, f func(field []byte, sign uint64)) {
	visit := func(table []uint32, size int, sign uint64) {
		i, _ := slices.BinarySearch(table, uint32(addr))
		for ; i < len(table); i++ {
			at := uint64(int64(int32(table[i]))) - addr
			if at+uint64(size) > uint64(len(data)) {
				return
			}
			f(data[at:at+uint64(size):at+uint64(size)], sign)
		}
	}
	visit(r.abs32, 4, 1)
	visit(r.minus32, 4, ^uint64(0))
	visit(r.abs64, 8, 1)
}
