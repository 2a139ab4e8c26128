package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Code that was read as nobody's is read again if it is a module's by now: the text
// of one that was loaded while it was read.
func TestCodeOfModuleThatCame(t *testing.T) {
	const code, pages = freedPage, 2
	for name, tt := range map[string]struct {
		kind    kernel.AreaKind
		start   uint64
		size    uint64
		claimed bool
	}{
		"its text":          {kernel.AreaText, code, pages * 0x1000, true},
		"a part of it":      {kernel.AreaText, code + 0x1000, 0x10, true},
		"what it starts by": {kernel.AreaInit, code, 0x1000, true},
		"its data":          {kernel.AreaData, code, pages * 0x1000, false},
		"text before it":    {kernel.AreaText, code - 0x1000, 0x1000, false},
		"text after it":     {kernel.AreaText, code + pages*0x1000, 0x1000, false},
	} {
		c := freedCollector(t, nil)
		c.modules = []kernel.LoadedModule{{Name: "m", Areas: []kernel.Area{{Kind: tt.kind, Start: mem.Virt(tt.start), Size: tt.size}}}}
		d := dynamicData{Code: []dynamicCode{{region: region{Start: code, Digests: make([]byte, pages*len(Digest{}))}}}}
		if got := c.claimed(&d); got != tt.claimed {
			t.Errorf("%s: claimed %v", name, got)
		}
	}
}
