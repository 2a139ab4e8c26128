package check

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TestDetectsShrunkData: an attacker who changes the target's symbols makes the
// scan read less of the kernel's data, or other memory.
func TestDetectsShrunkData(t *testing.T) {
	const start, end = 0xffffffff82001000, 0xffffffff82004800 // four pages
	tests := map[string]struct {
		start    address
		pages    int
		findings int
	}{
		"as the image has it": {start, 4, 0},
		"fewer pages":         {start, 3, 1},
		"none":                {start, 0, 1},
		"more pages":          {start, 5, 1},
		"elsewhere":           {start + mem.PageSize, 4, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out measure.Check
			j := &judging{code: code{symbols: kernel.NewSymbols([]kernel.Symbol{
				{Addr: start, Kind: 'D', Name: "_sdata"}, {Addr: end, Kind: 'D', Name: "_edata"}})}}
			s := slotJudge{judging: j, out: &out}
			elsewhere, err := s.elsewhere(&region{Start: tt.start, Digests: make([]byte, 32*tt.pages)}, "_sdata", "_edata")
			if err != nil || elsewhere != (tt.findings > 0) || len(out.Findings) != tt.findings {
				t.Errorf("elsewhere %v, %v: %+v", elsewhere, err, out.Findings)
			}
			if _, err := s.elsewhere(&region{}, "_sdata", "no such symbol"); err == nil {
				t.Error("an image without the symbol gives no error")
			}
		})
	}
}

// noModules has no files; it is never asked where no module is listed.
type noModules struct{}

func (noModules) Module(string, string) (*kernel.ModuleFile, error) { return nil, errNoModules }

// TestNoListNoPass: where the list of modules was not read there are none to
// compare, which says nothing about the target.
func TestNoListNoPass(t *testing.T) {
	for _, name := range []string{moduleTextName, moduleRodataName} {
		for _, why := range []string{"", "the list could not be read"} {
			obs := recorded(t)
			item := obs.Item(modulesName)
			item.Data, item.NotMeasured = nil, why
			obs.Items = append(obs.Items, measure.Observation{Check: name, Data: []byte(`{"modules":[]}`)})
			r, err := Judge(obs, &References{Checks: []string{name}, Modules: noModules{}})
			if err != nil {
				t.Fatal(err)
			}
			if c := r.Checks[0]; c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "linux.modules") {
				t.Errorf("%s without a list: %s %q", name, c.Outcome, c.Reason)
			}
		}
	}
}

// TestLayoutInKeys: what was accepted for one set of modules is not for another.
func TestLayoutInKeys(t *testing.T) {
	of := func(modules ...moduleFact) Digest {
		j := &judging{code: code{modules: modules}}
		return j.layout()
	}
	one := moduleFact{Name: "a", BuildID: "01", Sections: []sectionFact{{".text", 0xffffffffc0001000}}}
	moved, built := one, one
	moved.Sections = []sectionFact{{".text", 0xffffffffc0002000}}
	built.BuildID = "02"
	if of(one) != of(one) {
		t.Error("the same modules give two layouts")
	}
	for name, other := range map[string][]moduleFact{"none": nil, "moved": {moved}, "another build": {built}, "another": {one, moved}} {
		if of(one) == of(other...) {
			t.Errorf("%s: the same layout", name)
		}
	}
}
