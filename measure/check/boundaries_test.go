package check

import (
	"encoding/json"
	"slices"
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
	for _, name := range []string{moduleTextName, moduleRodataName, modulePointersName} {
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
	if first, again := of(one), of(one); first != again {
		t.Error("the same modules give two layouts")
	}
	for name, other := range map[string][]moduleFact{"none": nil, "moved": {moved}, "another build": {built}, "another": {one, moved}} {
		if of(one) == of(other...) {
			t.Errorf("%s: the same layout", name)
		}
	}
}

// TestDetectsPlantedSymbols: an attacker plants a table of symbols that the scan
// finds before the kernel's own.
func TestDetectsPlantedSymbols(t *testing.T) {
	const link, slide = 0xffffffff81000000, 0x1c00000
	list := []kernel.Symbol{{Addr: 0x1000, Kind: 'A', Name: "per_cpu"}, {Addr: link, Kind: 'T', Name: "_text"}, {Addr: link + 0x40, Kind: 'D', Name: "idt_table"}}
	image := &kernel.Image{Symbols: kernel.NewSymbols(list)}
	planted := append([]kernel.Symbol(nil), list...)
	planted[2].Addr += 0x1000
	for name, tt := range map[string]struct {
		symbols  []kernel.Symbol
		findings int
	}{"the image's": {list, 0}, "another place for one": {planted, 1}, "one less": {list[:2], 1}} {
		digest := Digest(kernel.NewSymbols(tt.symbols).Slide(slide).Digest(link + slide))
		j := &judging{image: image, obs: &measure.Observations{Kernel: measure.Kernel{SymbolDigest: digest.String()}}}
		var out measure.Check
		if err := j.symbols(&out); err != nil || len(out.Findings) != tt.findings {
			t.Errorf("%s: %v, %+v", name, err, out.Findings)
		}
	}
	if err := (&judging{image: image, obs: &measure.Observations{}}).symbols(&measure.Check{}); err == nil {
		t.Error("a scan that does not say its symbols is compared")
	}
}

// TestDetectsEmptiedOperation: an attacker clears an exit handler or an operation,
// or has the scan leave it out. What is no function, and what the module's code
// assigns to, may differ.
func TestDetectsEmptiedOperation(t *testing.T) {
	data := kvmData{Vendor: "kvm_amd", Tables: []kvmTable{{Name: "svm_exit_handlers", At: 0x1000, Size: 24}, {Name: "kvm_x86_ops", At: 0x2000, Size: 24}},
		Pointers: []pointer{{At: 0x1000, Value: 1}, {At: 0x1010, Value: 3}}}
	j := &judging{code: code{kernel: textRange{0x8000, 0x9000}, symbols: kernel.NewSymbols([]kernel.Symbol{{Addr: 0x8100, Kind: 't', Name: "operation"}})}}
	file := kvmFile{assigned: map[address]bool{0x2010: true}, strict: map[address]address{
		0x1000: 1, 0x1010: 3, 0x2000: 4 /* a size */, 0x2010: 0x8100 /* taken back */}}
	if f := j.kvmEmptied(&data, file); len(f) != 0 {
		t.Errorf("all that has to be is set: %+v", f)
	}
	file.strict[0x1008] = 2
	if f := j.kvmEmptied(&data, file); len(f) != 1 || f[0].Symbol != "svm_exit_handlers[0x1]" {
		t.Errorf("a handler is gone: %+v", f)
	}
	delete(file.strict, 0x1008)
	file.strict[0x2008] = 0x8100
	if f := j.kvmEmptied(&data, file); len(f) != 1 || f[0].Symbol != "kvm_x86_ops+0x8" {
		t.Errorf("an operation is gone: %+v", f)
	}
}

// TestModuleThatNeverStarts: a module that does not start, and whose code for that was
// not compared, is not passed over.
func TestModuleThatNeverStarts(t *testing.T) {
	j := &judging{}
	for _, starting := range [][]string{nil, {"slow"}} {
		raw, err := json.Marshal(pageTablesData{Executable: []mappedRange{{Start: 0x1000, Size: 0x1000}},
			Owners: []owner{{"module slow", 0x1000, 0x1000}}, Starting: starting})
		if err != nil {
			t.Fatal(err)
		}
		var out measure.Check
		if err := judgePageTables(j, raw, &out); (err != nil) != (starting != nil) || len(out.Findings) > 0 {
			t.Errorf("starting %v: %v, %+v", starting, err, out.Findings)
		}
	}
}

// TestLiveModuleAtItsStart: a module is live for a while before what it ran at its
// start leaves its account. That is its own, whether or not it is compared.
func TestLiveModuleAtItsStart(t *testing.T) {
	area := kernel.Area{Kind: kernel.AreaInit, Start: 0x1000, Size: 0x1000}
	for _, m := range []kernel.LoadedModule{{Name: "comes", Areas: []kernel.Area{area}}, {Name: "lives", Live: true, Areas: []kernel.Area{area}}} {
		c := collector{later: []kernel.LoadedModule{m}}
		if starting := c.starting(nil); len(starting) > 0 {
			t.Errorf("starting, with nothing executable: %q", starting)
		}
		if starting := c.starting([]mappedRange{{Start: 0x0, Size: 0x1001}}); !slices.Equal(starting, []string{m.Name}) {
			t.Errorf("starting: %q, want %s", starting, m.Name)
		}
		if own := executableAreas(c.later); !slices.Equal(own, []owner{{"module " + m.Name, 0x1000, 0x1000}}) {
			t.Errorf("the account of %s: %+v", m.Name, own)
		}
	}
	c := collector{later: []kernel.LoadedModule{{Name: "started", Live: true}}}
	if starting := c.starting([]mappedRange{{Start: 0x1000, Size: 0x1000}}); len(starting) > 0 {
		t.Errorf("starting: %q", starting)
	}
}
