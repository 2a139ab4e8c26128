package check

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// withMSRs adds to recorded observations what the same kernel has in the
// registers of system calls.
func withMSRs(t testing.TB) *measure.Observations {
	t.Helper()
	obs := recorded(t)
	entries := map[string]address{entry64: 0xffffffff81c00080, entryCompat: 0xffffffff81c019b0, entrySysenter: 0xffffffff81c018f0}
	data := msrsData{Entries: entries}
	for cpu := range 2 {
		stack := address(0xfffffe0000003000) + address(cpu)*0x3b000
		data.CPUs = append(data.CPUs, msrFact{CPU: cpu, STAR: 0x23001000000000, FMASK: 0x257fd5,
			LSTAR: pointer{Value: entries[entry64], Symbol: entry64}, CSTAR: pointer{Value: entries[entryCompat], Symbol: entryCompat},
			SysenterCS: 0x10, SysenterESP: stack, EntryStack: stack,
			SysenterEIP: pointer{Value: entries[entrySysenter], Symbol: entrySysenter}})
	}
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	obs.Items = append(obs.Items, measure.Observation{Check: msrsName, Data: raw})
	return obs
}

func TestDetectsSystemCallRegisters(t *testing.T) {
	hook := pointer{Value: 0xffffffffc0300000, Symbol: "rootkit:entry"}
	tests := map[string]struct {
		change func(*msrFact)
		symbol string
	}{
		"SYSCALL to a module":            {func(f *msrFact) { f.LSTAR = hook }, "LSTAR of CPU 1"},
		"SYSCALL past the entry's start": {func(f *msrFact) { f.LSTAR.Value += 4 }, "LSTAR of CPU 1"},
		// A target that lies about its symbols' names is no better off.
		"SYSCALL to what claims the name":     {func(f *msrFact) { f.LSTAR = pointer{Value: hook.Value, Symbol: entry64} }, "LSTAR of CPU 1"},
		"32-bit SYSCALL to a module":          {func(f *msrFact) { f.CSTAR = hook }, "CSTAR of CPU 1"},
		"32-bit SYSCALL to the 64-bit entry":  {func(f *msrFact) { f.CSTAR = f.LSTAR }, "CSTAR of CPU 1"},
		"32-bit SYSCALL to nowhere":           {func(f *msrFact) { f.CSTAR = pointer{} }, "CSTAR of CPU 1"},
		"SYSENTER to a module":                {func(f *msrFact) { f.SysenterEIP = hook }, "SYSENTER_EIP of CPU 1"},
		"SYSENTER on another stack":           {func(f *msrFact) { f.SysenterESP = 0xffff888000001000 }, "SYSENTER_ESP of CPU 1"},
		"SYSENTER on another CPU's stack":     {func(f *msrFact) { f.SysenterESP = 0xfffffe0000003000 }, "SYSENTER_ESP of CPU 1"},
		"SYSENTER in another segment":         {func(f *msrFact) { f.SysenterCS = 0x23 }, "SYSENTER_CS of CPU 1"},
		"SYSRET to a kernel segment":          {func(f *msrFact) { f.STAR = 0x8001000000000 }, "STAR of CPU 1"},
		"interrupts left on":                  {func(f *msrFact) { f.FMASK &^= 1 << 9 }, "FMASK of CPU 1"},
		"access to user memory left possible": {func(f *msrFact) { f.FMASK &^= 1 << 18 }, "FMASK of CPU 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := withMSRs(t)
			edit(t, obs, msrsName, func(d *msrsData) { tt.change(&d.CPUs[1]) })
			c := judgeOne(t, obs, msrsName)
			requireFinding(t, c, tt.symbol, "")
			if len(c.Findings) != 1 {
				t.Errorf("%d findings for one change", len(c.Findings))
			}
		})
	}
}

func TestAcceptsSystemCallRegisters(t *testing.T) {
	tests := map[string]func(*msrsData){
		"as they were":                   func(*msrsData) {},
		"5.10, which clears fewer flags": func(d *msrsData) { d.CPUs[0].FMASK, d.CPUs[1].FMASK = 0x47700, 0x47700 },
		"no 32-bit emulation": func(d *msrsData) {
			d.Entries = map[string]address{entry64: d.Entries[entry64], entryIgnore: 0xffffffff81c00100}
			for i := range d.CPUs {
				f := &d.CPUs[i]
				f.CSTAR.Value, f.SysenterCS, f.SysenterESP, f.SysenterEIP = 0xffffffff81c00100, 0, 0, pointer{}
			}
		},
		"Intel's, on which it is not written": func(d *msrsData) {
			d.Vendor = vendorIntel
			for i := range d.CPUs {
				d.CPUs[i].CSTAR = pointer{}
			}
		},
		"a processor that keeps 32 bits": func(d *msrsData) {
			for i := range d.CPUs {
				d.CPUs[i].SysenterEIP.Value &= 0xffffffff
				d.CPUs[i].SysenterESP &= 0xffffffff
			}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			obs := withMSRs(t)
			edit(t, obs, msrsName, change)
			if c := judgeOne(t, obs, msrsName); c.Outcome != measure.Pass {
				t.Errorf("%s %s %+v", c.Outcome, c.Reason, c.Findings)
			}
		})
	}
}

// On Intel's processors the register is not written, or has what it has elsewhere.
func TestDetectsHookOnIntel(t *testing.T) {
	obs := withMSRs(t)
	edit(t, obs, msrsName, func(d *msrsData) {
		d.Vendor = vendorIntel
		d.CPUs[1].CSTAR = pointer{Value: 0xffffffffc0300000, Symbol: "rootkit:entry"}
	})
	requireFinding(t, judgeOne(t, obs, msrsName), "CSTAR of CPU 1", "")
}

// What was not observed is not measured, and never passes.
func TestSystemCallRegistersNotMeasured(t *testing.T) {
	tests := map[string]func(*msrsData){
		"no CPU":                       func(d *msrsData) { d.CPUs = nil },
		"no entry":                     func(d *msrsData) { delete(d.Entries, entry64) },
		"a CPU that does not use them": func(d *msrsData) { d.FRED = true },
	}
	for name, change := range tests {
		obs := withMSRs(t)
		edit(t, obs, msrsName, change)
		if c := judgeOne(t, obs, msrsName); c.Outcome != measure.NotMeasured || c.Reason == "" {
			t.Errorf("%s: %s %s %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
	if err := planMSRs(&collector{machine: stillMachine{}}); err != errNoSystemCalls {
		t.Errorf("a source without these registers: %v", err)
	}
}

// stillMachine is a source without anything.
type stillMachine struct{}

func (stillMachine) Memory() mem.Reader                                 { return nil }
func (stillMachine) Registers(context.Context) ([]mem.Registers, error) { return nil, nil }
func (stillMachine) Pause(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}
