package kernel

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// layoutSections are those of a module with one of each kind, in the order of its file.
func layoutSections() []elfSection {
	section := func(name string, flags, size, align uint64) elfSection {
		return elfSection{name: name, kind: 1, flags: shfAlloc | flags, data: make([]byte, size), align: align}
	}
	return []elfSection{
		{},
		section(".note.gnu.build-id", 0, 36, 4),
		section(".text", shfExec, 0x1001, 16),
		section(".text.unlikely", shfExec, 0x20, 64),
		section(".init.text", shfExec, 0x101, 16),
		section(".rodata", 0, 0x40, 32),
		section("__versions", 0, 0x8000, 32), // not loaded
		section(".init.rodata", 0, 0x30, 8),
		section("__jump_table", shfWrite, 0x21, 8),
		section(".data", shfWrite, 0x40, 32),
		section(".data..percpu", shfWrite, 0x40, 32),
		section(".static_call_sites", shfWrite, 0x10, 1),
		section(".init.data", shfWrite, 0x18, 8),
		section(".bss", shfWrite, 0x10, 64),
		{name: ".modinfo", kind: 1, flags: shfAlloc, data: []byte("name=laid_out\x00")},
		{name: ".symtab", kind: shtSymtab, link: 16},
		{name: ".strtab", kind: 3, data: []byte{0}},
	}
}

// TestLayOutModule: sections lie where the loader puts them, in kernels that have one
// block for all and in those that have one for each kind.
func TestLayOutModule(t *testing.T) {
	file, err := NewModule(encodeELF(layoutSections()))
	if err != nil {
		t.Fatal(err)
	}
	core := []Area{{AreaText, 0xffffffffc0000000, 0x2000}, {AreaRodata, 0xffffffffc0002000, 0x1000},
		{AreaROAfterInit, 0xffffffffc0003000, 0x1000}, {AreaData, 0xffffffffc0004000, 0x1000}}
	one := Area{AreaInit, 0xffffffffc0010000, 0x3000}
	apart := []Area{{AreaInit, 0xffffffffc0010000, 0x1000}, {AreaInit, 0xffffffffc0020000, 0x1000}, {AreaInit, 0xffffffffc0030000, 0x1000}}
	common := map[string]uint64{
		".note.gnu.build-id": 0xffffffffc0002000, ".text": 0xffffffffc0000000, ".text.unlikely": 0xffffffffc0001040,
		".init.text": 0xffffffffc0010000, ".rodata": 0xffffffffc0002040, "__jump_table": 0xffffffffc0003000,
		".data": 0xffffffffc0004000, ".data..percpu": 0x3b000,
	}
	with := func(more map[string]uint64) map[string]uint64 {
		for name, at := range common {
			more[name] = at
		}
		return more
	}
	later, earlier := true, false
	for name, tt := range map[string]struct {
		areas []Area
		calls *bool // are constant after the start
		want  map[string]uint64
	}{
		"one block": {append(core[:4:4], one), &earlier, with(map[string]uint64{".init.rodata": 0xffffffffc0011000, ".init.data": 0xffffffffc0012000,
			".static_call_sites": 0xffffffffc0004040, ".bss": 0xffffffffc0004080})},
		"a block for each": {append(core[:4:4], apart...), &earlier, with(map[string]uint64{".init.data": 0xffffffffc0020000, ".init.rodata": 0xffffffffc0030000,
			".static_call_sites": 0xffffffffc0004040, ".bss": 0xffffffffc0004080})},
		"static calls after the start": {append(core[:4:4], apart...), &later, with(map[string]uint64{".init.data": 0xffffffffc0020000, ".init.rodata": 0xffffffffc0030000,
			".static_call_sites": 0xffffffffc0003021, ".bss": 0xffffffffc0004040})},
		"either, and nothing tells":  {append(core[:4:4], apart...), nil, nil},
		"nothing for the start":      {core, &earlier, nil},
		"a block too few for it":     {append(core[:4:4], apart[:2]...), &earlier, nil},
		"a block too many for it":    {append(core[:4:4], append(apart[:3:3], one)...), &earlier, nil},
		"too little for it":          {append(core[:4:4], Area{AreaInit, one.Start, 0x2000}), &earlier, nil},
		"more text":                  {append([]Area{{AreaText, core[0].Start, 0x3000}}, append(core[1:4:4], one)...), &earlier, nil},
		"less text":                  {append([]Area{{AreaText, core[0].Start, 0x1000}}, append(core[1:4:4], one)...), &earlier, nil},
		"no constants":               {append([]Area{core[0]}, append(core[2:4:4], one)...), &earlier, nil},
		"text in the middle of page": {append([]Area{{AreaText, core[0].Start + 8, 0x2000}}, append(core[1:4:4], one)...), &earlier, nil},
	} {
		e := exportingKernel(t)
		e.callsAfterInit = tt.calls
		l := newLinker(e, file, &LoadedModule{Name: "laid_out", PerCPU: 0x3b000, Areas: tt.areas})
		if tt.want == nil {
			if !errors.Is(l.unplaced, ErrRelocation) {
				t.Errorf("%s: %v, %x", name, l.unplaced, l.addr)
			}
			continue
		}
		got := make(map[string]uint64)
		for i, at := range l.addr {
			if at != 0 {
				got[file.elf.sections[i].name] = at
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || l.unplaced != nil {
			t.Errorf("%s: %v (-want +got)\n%s", name, l.unplaced, diff)
		}
	}
}

// TestLearnsLayout: one module that says where its static calls are tells where those
// of others are.
func TestLearnsLayout(t *testing.T) {
	file, err := NewModule(encodeELF(layoutSections()))
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []bool{false, true} {
		e := exportingKernel(t)
		at := &LoadedModule{Areas: []Area{{AreaROAfterInit, 0xffffffffc0003000, 0x1000}}}
		newLinker(e, file, &LoadedModule{Sections: []ModuleSection{{".text", 0xffffffffc0000000}}})
		if e.callsAfterInit != nil {
			t.Error("learnt from a module that has none")
		}
		at.Sections = []ModuleSection{{".static_call_sites", map[bool]mem.Virt{false: 0xffffffffc0004000, true: 0xffffffffc0003100}[after]}}
		newLinker(e, file, at)
		if e.callsAfterInit == nil || *e.callsAfterInit != after {
			t.Errorf("after the start: %v", after)
		}
	}
}
