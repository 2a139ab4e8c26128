package kernel

import (
	"bytes"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TestStartCode: what a module runs at its start is linked where it has memory for it.
func TestStartCode(t *testing.T) {
	sections := layoutSections()
	code := bytes.Repeat([]byte{0x90}, 0x101)
	sections[4].data = code
	file, err := NewModule(encodeELF(sections))
	if err != nil {
		t.Fatal(err)
	}
	at := func(init ...Area) *LoadedModule {
		return &LoadedModule{Name: "laid_out", Areas: append([]Area{{AreaText, 0xffffffffc0000000, 0x2000}}, init...),
			Sections: []ModuleSection{{".text", 0xffffffffc0000000}, {".text.unlikely", 0xffffffffc0001040}, {".init.text", 0xffffffffc0010000}}}
	}
	for name, tt := range map[string]struct {
		module *LoadedModule
		pages  int
	}{
		"one block":             {at(Area{AreaInit, 0xffffffffc0010000, 0x3000}), 1},
		"a block for each":      {at(Area{AreaInit, 0xffffffffc0020000, 0x1000}, Area{AreaInit, 0xffffffffc0010000, 0x1000}), 1},
		"it is over":            {at(), 0},
		"too small":             {at(Area{AreaInit, 0xffffffffc0010000, 0x100}), 0},
		"in the middle of page": {at(Area{AreaInit, 0xffffffffc000fff8, 0x3000}), 0},
		"far behind the start":  {at(Area{AreaInit, 0xffffffffb0010000, maxModuleSize}), 0},
	} {
		e := exportingKernel(t)
		text, err := e.AddModule(file, tt.module)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		start, err := text.StartCode()
		if tt.pages == 0 {
			if !errors.Is(err, ErrRelocation) || start != nil {
				t.Errorf("%s: %v, %+v", name, err, start)
			}
			continue
		}
		if err != nil || start.Pages != tt.pages || start.Start != 0xffffffffc0010000 {
			t.Errorf("%s: %v, %+v", name, err, start)
			continue
		}
		page := append(bytes.Clone(code), make([]byte, mem.PageSize-len(code))...)
		explain := func() *Explanation { return e.Explain(start, []int{0}, func(int) []byte { return page }) }
		if x := explain(); len(x.Findings) != 0 {
			t.Errorf("%s: %+v", name, x.Findings)
		}
		page[0x200] = 1
		if x := explain(); len(x.Findings) != 1 {
			t.Errorf("%s: a byte behind it: %+v", name, x.Findings)
		}
		if e.approved(uint64(start.Start)) {
			t.Errorf("%s: its code is approved", name)
		}
	}
}
