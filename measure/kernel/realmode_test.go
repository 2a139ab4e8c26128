package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestExplainRealMode(t *testing.T) {
	const at, base = mem.Phys(0x9a000), mem.Virt(0xffff88800009a000)
	blob := bytes.Repeat([]byte{0x90}, 6000)
	relocs := make([]byte, 0, 32)
	for _, n := range []uint32{1, 16, 2, 32, 4200} { // a segment, two addresses
		relocs = binary.LittleEndian.AppendUint32(relocs, n)
	}
	build := func(relocs []byte) *Expected {
		k := newTestKernel()
		start := k.section(".init.data", append(bytes.Clone(blob), relocs...))
		end := start + uint64(len(blob))
		k.symbols = append(k.symbols, Symbol{start, 'D', "real_mode_blob"}, Symbol{end, 'D', "real_mode_blob_end"}, Symbol{end, 'D', "real_mode_relocs"})
		return NewExpected(k.image(t), testSlide, PatchFacts{})
	}
	e := build(relocs)
	seen := append(bytes.Clone(blob), make([]byte, 8192-len(blob))...)
	binary.LittleEndian.PutUint16(seen[16:], 0x9a00)
	for _, off := range []int{32, 4200} {
		binary.LittleEndian.PutUint32(seen[off:], 0x90909090+uint32(at))
	}
	for _, off := range []int{0, mem.PageSize} {
		if d, err := e.ExplainRealMode(base, at, off, seen[off:]); err != nil || len(d) != 0 {
			t.Errorf("from %d on: %+v, %v", off, d, err)
		}
	}
	for _, off := range []int{3, 17, 35, 4203, 7000} {
		changed := bytes.Clone(seen)
		changed[off] ^= 1
		if d, err := e.ExplainRealMode(base, at, 0, changed); err != nil || len(d) != 1 || d[0].Addr != base+mem.Virt(off) {
			t.Errorf("a change at %d: %+v, %v", off, d, err)
		}
	}
	binary.LittleEndian.PutUint32(relocs[4:], 5999)
	if _, err := build(relocs).ExplainRealMode(base, at, 0, seen); !errors.Is(err, errRealMode) {
		t.Errorf("relocation outside: %v", err)
	}
	if _, err := newExpectedOf(t).ExplainRealMode(base, at, 0, seen); !errors.Is(err, errRealMode) {
		t.Errorf("no blob: %v", err)
	}
}
