package xentest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// File is Xen's file: a 32-bit ELF with one segment to load and a note.
func File() []byte {
	data := fresh()[:Tables]
	const header, segments = 0x34, 2
	out := make([]byte, 0x80)
	copy(out, "\x7fELF\x01\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(out[0x10:], 2) // ET_EXEC
	le.PutUint16(out[0x12:], 3) // EM_386
	le.PutUint32(out[0x1c:], header)
	le.PutUint16(out[0x2a:], 32)
	le.PutUint16(out[0x2c:], segments)
	for i, v := range []uint32{1, 0x80, 0x20_0000, 0x20_0000, uint32(len(data)), size, 7, 64} {
		le.PutUint32(out[header+4*i:], v)
	}
	for i, v := range []uint32{4, 0x80 + note, note, note, 36, 36, 4, 4} {
		le.PutUint32(out[header+32+4*i:], v)
	}
	return append(out, data...)
}

// putSymbols writes the symbol table: offsets, count, names, markers, tokens.
// Each token is one character, so that names are stored as they are.
func putSymbols(into []byte) {
	type symbol struct {
		off  int
		name string
	}
	var list []symbol
	for name, off := range functions {
		list = append(list, symbol{off, "T" + name})
	}
	for name, off := range symbolsOfData {
		list = append(list, symbol{off, "D" + name})
	}
	slices.SortFunc(list, func(a, b symbol) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.name, b.name)) })
	var out bytes.Buffer
	word := func(v int) { out.Write(binary.LittleEndian.AppendUint32(nil, uint32(v))) }
	for _, s := range list {
		word(0x20_0000 + s.off)
	}
	word(len(list))
	for _, s := range list {
		out.WriteByte(byte(len(s.name)))
		out.WriteString(s.name)
	}
	align := func(n int) {
		for out.Len()%n != 0 {
			out.WriteByte(0)
		}
	}
	align(4)
	word(0) // one marker: fewer than 257 names
	var index []byte
	start := out.Len()
	for c := range 256 {
		index = binary.LittleEndian.AppendUint16(index, uint16(out.Len()-start))
		if c > 0 {
			out.WriteByte(byte(c))
		}
		out.WriteByte(0)
	}
	align(4)
	out.Write(index)
	copy(into, out.Bytes())
	if out.Len() > len(into) {
		panic("xentest: symbols do not fit")
	}
}
