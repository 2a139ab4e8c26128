package dump

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// area is RAM to be put into a dump.
type area struct {
	at    mem.Phys
	bytes []byte
}

// ram is three areas of which the first two follow each other.
func ram() []area {
	fill := func(seed byte, pages int) []byte {
		b := make([]byte, pages*mem.PageSize)
		for i := range b {
			b[i] = seed + byte(i/mem.PageSize) + byte(i%251)
		}
		return b
	}
	return []area{{0, fill(1, 3)}, {0x3000, fill(9, 2)}, {0x1_0000_0000, fill(77, 4)}}
}

var ramExtents = []mem.Extent{{Start: 0, Size: 0x5000}, {Start: 0x1_0000_0000, Size: 0x4000}}

func ramBytes() map[mem.Phys][]byte {
	out := make(map[mem.Phys][]byte)
	for _, a := range ram() {
		out[a.at] = a.bytes
	}
	return out
}

// realNotes are those of a real dump of two CPUs.
func realNotes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/notes")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var le = binary.LittleEndian

// put writes little-endian values of their own sizes at an offset.
func put(b []byte, at int, values ...any) {
	var w bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&w, le, v); err != nil {
			panic(err)
		}
	}
	copy(b[at:], w.Bytes())
}

// elfDump makes a core file the way dump-guest-memory does.
func elfDump(notes []byte, areas []area) []byte {
	head := make([]byte, elfHeader+(1+len(areas))*progHeader)
	copy(head, "\x7fELF\x02\x01\x01")
	put(head, 16, uint16(4), uint16(62), uint32(1), uint64(0), uint64(elfHeader), uint64(0), uint32(0), uint16(elfHeader), uint16(progHeader), uint16(1+len(areas)))
	put(head, elfHeader, uint32(4), uint32(0), uint64(len(head)), uint64(0), uint64(0), uint64(len(notes)), uint64(len(notes)))
	out := append(slices.Clone(head), notes...)
	for i, a := range areas {
		put(out, elfHeader+(1+i)*progHeader, uint32(1), uint32(0), uint64(len(out)), uint64(a.at), uint64(a.at), uint64(len(a.bytes)), uint64(len(a.bytes)))
		out = append(out, a.bytes...)
	}
	return out
}

// countedElsewhere has a core file say in section header 0 how many program headers
// it has.
func countedElsewhere(file []byte, count uint32) []byte {
	section := make([]byte, sectHeader)
	put(section, 44, count)
	out := slices.Concat(file, section)
	put(out, 40, uint64(len(file)))
	put(out, 56, uint16(manyHeaders))
	return out
}

func limeDump(areas []area) []byte {
	var out []byte
	for _, a := range areas {
		out = append(out, limeMagic...)
		out = le.AppendUint32(out, 1)
		out = le.AppendUint64(out, uint64(a.at))
		out = le.AppendUint64(out, uint64(a.at)+uint64(len(a.bytes))-1)
		out = append(out, make([]byte, 8)...)
		out = append(out, a.bytes...)
	}
	return out
}

// pack compresses a page.
type pack struct {
	flags uint32
	bytes func([]byte) []byte
}

var packs = map[string]pack{
	"stored": {0, slices.Clone[[]byte]},
	"zlib": {packedZlib, func(b []byte) []byte {
		var out bytes.Buffer
		w := zlib.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}},
	"lzo":    {packedLZO, lzoPeriodic},
	"snappy": {packedSnappy, func(b []byte) []byte { return snappy.Encode(nil, b) }},
	"zstd": {packedZstd, func(b []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			panic(err)
		}
		return w.EncodeAll(b, nil)
	}},
}

// kdump makes a kdump-compressed file of version 6.
func kdump(notes []byte, areas []area, p pack) []byte {
	areas = slices.Clone(areas)
	slices.SortFunc(areas, func(a, b area) int { return cmp.Compare(a.at, b.at) })
	last := areas[len(areas)-1]
	frames := (uint64(last.at) + uint64(len(last.bytes))) / mem.PageSize
	half := (frames/8 + mem.PageSize) / mem.PageSize * mem.PageSize // bytes of a bitmap
	out := make([]byte, 2*mem.PageSize+2*half)
	copy(out, kdumpMagic)
	put(out, 8, uint32(6))
	put(out, 424, uint32(0), uint32(mem.PageSize), uint32(1), uint32(2*half/mem.PageSize), uint32(frames))
	var all [][]byte
	for _, a := range areas {
		for at := 0; at < len(a.bytes); at += mem.PageSize {
			frame := (uint64(a.at) + uint64(at)) / mem.PageSize
			for i := range uint64(2) {
				out[2*mem.PageSize+i*half+frame/8] |= 1 << (frame % 8)
			}
			all = append(all, p.bytes(a.bytes[at:at+mem.PageSize]))
		}
	}
	data := uint64(len(out) + len(all)*kdumpPage)
	put(out, mem.PageSize+48, data, uint64(len(notes)))
	put(out, mem.PageSize+96, frames)
	data += uint64(len(notes))
	for _, b := range all {
		out = le.AppendUint64(out, data)
		out = le.AppendUint32(out, uint32(len(b)))
		out = le.AppendUint32(out, p.flags)
		out = append(out, make([]byte, 8)...)
		data += uint64(len(b))
	}
	out = append(out, notes...)
	return append(out, bytes.Join(all, nil)...)
}

// flatten splits a file into writes of a few sizes, the last one first, and
// leaves out what is zeros.
func flatten(b []byte) []byte {
	var writes [][]byte
	for at, n := 0, 100; at < len(b); at, n = at+n, n*3%7000+16 {
		n = min(n, len(b)-at)
		if bytes.Equal(b[at:at+n], make([]byte, n)) && at+n < len(b) {
			continue
		}
		w := binary.BigEndian.AppendUint64(nil, uint64(at))
		w = binary.BigEndian.AppendUint64(w, uint64(n))
		writes = append(writes, append(w, b[at:at+n]...))
	}
	slices.Reverse(writes)
	out := make([]byte, flatHeader)
	copy(out, flatMagic)
	out = append(out, bytes.Join(writes, nil)...)
	return append(out, bytes.Repeat([]byte{0xff}, flatRecord)...)
}
