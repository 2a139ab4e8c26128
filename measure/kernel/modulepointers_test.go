package kernel

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// relocation is one that stores a symbol's address; symbols are those of
// testModule.
func relocation(offset uint64, symbol uint32, addend uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, offset)
	b = binary.LittleEndian.AppendUint64(b, uint64(symbol)<<32|reloc64)
	return binary.LittleEndian.AppendUint64(b, addend)
}

func TestModuleCodeSlots(t *testing.T) {
	const data, fn1, ownData, ownText, ownTable = 3, 1, 4, 6, 7 // a section; symbols
	for name, tt := range map[string]struct {
		relocations [][]byte
		unload      string // a section that the target does not say is anywhere
		table       uint32 // what its constant data leads to, a symbol
		strings     bool   // the constant data is texts
		start       bool   // or freed after the start
		want        []PointerSlot
		err         error
	}{
		"the kernel's, and its own": {relocations: [][]byte{relocation(8, ownText, 5), relocation(0, fn1, 0)},
			want: []PointerSlot{{At: testModuleData, Target: mem.Virt(fn(1) + testSlide)}, {At: testModuleData + 8, Target: testModuleText + 5}}},
		"its own table":              {relocations: [][]byte{relocation(8, ownTable, 0)}, table: fn1, want: []PointerSlot{{At: testModuleData + 8, Target: testModuleRodata + 16, Table: true}}},
		"its own constant data":      {relocations: [][]byte{relocation(8, ownTable, 0)}},
		"constant data about data":   {relocations: [][]byte{relocation(8, ownTable, 0)}, table: ownData},
		"behind its table":           {relocations: [][]byte{relocation(8, ownTable, 8)}, table: fn1},
		"the end of its table":       {relocations: [][]byte{relocation(8, ownTable, 4)}, table: fn1},
		"text for people":            {relocations: [][]byte{relocation(8, ownTable, 0)}, table: fn1, strings: true},
		"constant data of the start": {relocations: [][]byte{relocation(8, ownTable, 0)}, table: fn1, start: true},
		"data":                       {relocations: [][]byte{relocation(0, ownData, 8)}},
		"data that nobody loaded":    {relocations: [][]byte{relocation(0, fn1, 0)}, unload: ".data"},
		"behind the section":         {relocations: [][]byte{relocation(12, fn1, 0)}, err: ErrRelocation},
		"behind everything":          {relocations: [][]byte{relocation(^uint64(0)-4, fn1, 0)}, err: ErrRelocation},
		"of no symbol":               {relocations: [][]byte{relocation(0, 99, 0)}, err: ErrRelocation},
		"out of the kernel":          {relocations: [][]byte{relocation(0, fn1, 1<<30)}},
	} {
		t.Run(name, func(t *testing.T) {
			e := exportingKernel(t)
			file, err := NewModule(testModule("test_module"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := e.AddModule(file, loadedTestModule())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range tt.relocations {
				text.linker.relocations[data] = append(text.linker.relocations[data], r...)
			}
			const rodata = 11
			constant := &file.elf.sections[rodata]
			if tt.table != 0 {
				text.linker.relocations[rodata] = relocation(0, tt.table, 0)
			}
			if tt.strings {
				constant.flags |= shfStrings
			}
			if tt.start {
				constant.name = ".init.rodata"
			}
			if tt.unload != "" {
				text.linker.addr[data] = 0
			}
			got, err := text.PointerSlots()
			if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, tt.err) {
				t.Errorf("%v: %s", err, diff)
			}
			if len(got) > 0 && e.NameOfData(testModuleData+8) == "" {
				t.Error("its data has no name")
			}
		})
	}
}

// Text that is freed after loading, the module's description and the data of CPUs
// are not what the file says, or not in one place.
func TestKeepsPointers(t *testing.T) {
	for name, want := range map[string]bool{".data": true, ".data..ro_after_init": true, ".data..read_mostly": true,
		".init.data": false, ".data..percpu": false, ".gnu.linkonce.this_module": false} {
		if keepsPointers(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// Constant data is what the checks of read-only data compare.
func TestConstant(t *testing.T) {
	e := exportingKernel(t)
	file, err := NewModule(testModule("test_module"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.AddModule(file, loadedTestModule()); err != nil {
		t.Fatal(err)
	}
	r := e.Rodata()
	for name, tt := range map[string]struct {
		at   mem.Virt
		want bool
	}{
		"the kernel's":                {r.Start + 8, true},
		"before it":                   {r.Start - 1, false},
		"behind it":                   {r.Start + mem.Virt(r.Size), false},
		"a module's":                  {testModuleRodata + 16, true},
		"its last byte":               {testModuleRodata + 23, true},
		"behind it, in the same area": {testModuleRodata + 24, false},
		"what the loader sorts":       {testModuleRodata + 64, false},
		"writable data":               {testModuleData, false},
		"text":                        {testModuleText, false},
	} {
		if got := e.Constant(uint64(tt.at)); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
