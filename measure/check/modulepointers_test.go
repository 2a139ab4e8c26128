package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// TestDetectsForgedTable: a driver is given a table of operations of the attacker's.
// A table of a module of which there is no file is not known to be forged, and no pass.
func TestDetectsForgedTable(t *testing.T) {
	area := func(start address) []areaFact { return []areaFact{{kernel.AreaRodata, start, 0x1000}} }
	const at, target, own, known, unknown = 0xffffffffc0001008, 0xffffffffc0002000, 0xffffffffc0003000, 0xffffffffc0004000, 0xffffffffc0005000
	for name, tt := range map[string]struct {
		value    address
		findings int
		unjudged string
	}{
		"the file's":               {target, 0, ""},
		"empty":                    {0, 0, ""},
		"allocated memory":         {0xff11000001000000, 1, ""},
		"a process's":              {0x7f0000001000, 1, ""},
		"a module's, not a table":  {known + 8, 1, ""},
		"a module's without file":  {unknown, 0, "unknown"},
		"its last byte":            {unknown + 0xfff, 0, "unknown"},
		"behind it":                {unknown + 0x1000, 1, ""},
		"the module's own, not it": {own, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out measure.Check
			j := &judging{refs: &References{}, code: code{modules: []moduleFact{
				{Name: "own", Areas: area(own)}, {Name: "known", Areas: area(known)}, {Name: "unknown", Areas: area(unknown)}}}}
			image := &kernel.Image{Symbols: kernel.NewSymbols(nil)}
			j.text = &expectedText{env: kernel.NewExpected(image, 0, kernel.PatchFacts{}), modules: map[string]*kernel.Text{"own": {}, "known": {}}}
			s := slotJudge{judging: j, out: &out, check: modulePointersName}
			s.slot(kernel.PointerSlot{At: at, Target: target, Table: true}, tt.value)
			if len(out.Findings) != tt.findings || s.unjudged != tt.unjudged || s.other+s.otherTables != 0 {
				t.Errorf("%d findings, unjudged %q: %+v", len(out.Findings), s.unjudged, out.Findings)
			}
		})
	}
}
