package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestTablesCompare(t *testing.T) {
	k := newTestKernel()
	bugs := make([]byte, 36) // three entries: u32, u32, u16 line, u16 flags
	for i := range 3 {
		binary.LittleEndian.PutUint16(bugs[i*12+8:], uint16(100+i))
	}
	k.merged("__start___bug_table", "__stop___bug_table", bugs)
	k.merged("__start_orc_unwind", "__stop_orc_unwind", bytes.Repeat([]byte{5}, 60))
	tables := NewExpected(k.image(t), testSlide, PatchFacts{}).Tables()
	if len(tables) != 2 {
		t.Fatalf("%d tables", len(tables))
	}
	for _, table := range tables {
		seen := bytes.Clone(table.want)
		if d := table.Compare(seen); len(d) != 0 {
			t.Errorf("%s as in the file: %+v", table.Name, d)
		}
		seen[13] ^= 1
		if d := table.Compare(seen); len(d) != 1 || d[0].Addr != table.Start+13 {
			t.Errorf("%s changed: %+v", table.Name, d)
		}
	}
	seen := bytes.Clone(bugs)
	seen[10] |= bugDone
	if d := tables[1].Compare(seen); tables[1].Name != "__start___bug_table" || len(d) != 0 {
		t.Errorf("a WARN_ONCE that warned: %+v", d)
	}
	seen[10] |= 1
	if d := tables[1].Compare(seen); len(d) != 1 {
		t.Errorf("another flag: %+v", d)
	}
}

func TestVDSOs(t *testing.T) {
	k := newTestKernel()
	code := make([]byte, mem.PageSize)
	copy(code, "\x7fELF")
	copy(code[0x100:], []byte{0x11, 0x22, 0x33}) // RDTSC with a fence, say
	copy(code[0x200:], []byte{0xaa})
	at := k.section(".data.vdso", code)
	entry := append(relative(at+0x300, at+0x100, at+0x200), 5, 0, 3, 1) // of 12 bytes
	copy(code[0x300:], entry)
	header := binary.LittleEndian.AppendUint64(nil, at)
	for _, v := range []uint64{mem.PageSize, 0x300, 12} {
		header = binary.LittleEndian.AppendUint64(header, v)
	}
	k.symbols = append(k.symbols, Symbol{k.section(".data.image", header), 'd', "vdso_image_64"})
	e := NewExpected(k.image(t), testSlide, PatchFacts{})
	images := e.VDSOs()
	if len(images) != 1 || images[0].Name != "vdso_image_64" || images[0].Start != mem.Virt(at+testSlide) {
		t.Fatalf("vDSO images: %+v", images)
	}
	for name, tt := range map[string]struct {
		off  int
		code []byte
		ok   bool
	}{
		"as in the file":         {0, nil, true},
		"alternative applied":    {0x100, []byte{0xaa, 0x66, 0x90}, true},
		"alternative not so":     {0x100, []byte{0xab, 0x66, 0x90}, false},
		"code elsewhere changed": {0x180, []byte{1}, false},
	} {
		seen := bytes.Clone(code)
		copy(seen[tt.off:], tt.code)
		x := e.Explain(images[0].Text, []int{0}, func(int) []byte { return seen })
		if (len(x.Findings) == 0) != tt.ok {
			t.Errorf("%s: %+v", name, x.Findings)
		}
	}
}
