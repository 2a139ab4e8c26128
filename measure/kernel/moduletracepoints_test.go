package kernel

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A module's file says how many tracepoints it has; where their table is counts
// only within what is compared with the file.
func TestTracepointsOfModule(t *testing.T) {
	const inside, before = testModuleRodata + 0x100, testModuleRodata - 16
	tests := map[string]struct {
		size uint64
		at   mem.Virt
		want TracepointTable
	}{
		"three":                        {12, inside, TracepointTable{3, inside, true}},
		"at the end":                   {16, testModuleRodata + 4096 - 16, TracepointTable{4, testModuleRodata + 4096 - 16, true}},
		"past the end":                 {16, testModuleRodata + 4096 - 12, TracepointTable{4, testModuleRodata + 4096 - 12, false}},
		"elsewhere":                    {16, before, TracepointTable{4, before, false}},
		"the target does not say it":   {16, 0, TracepointTable{4, 0, false}},
		"an empty section":             {0, inside, TracepointTable{}},
		"less than an entry is no one": {3, inside, TracepointTable{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := &linker{file: &ModuleFile{elf: &elfFile{sections: []elfSection{{}, {name: tracepointSection, flags: shfAlloc, size: tt.size}}}},
				addr: []uint64{0, uint64(tt.at)}}
			text := &Text{linker: l, rodata: Area{AreaRodata, testModuleRodata, 4096}}
			if diff := cmp.Diff(tt.want, text.Tracepoints()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := new(Text).Tracepoints(); got != (TracepointTable{}) {
		t.Errorf("the kernel has a module's table: %+v", got)
	}
}
