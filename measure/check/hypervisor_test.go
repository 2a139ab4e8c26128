package check

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Guests run by KVM, and by somebody else.
func TestJudgesWhoRunsGuests(t *testing.T) {
	svm, vmx := cpuFact{EFER: mem.EFERSVME, HostState: 0x5000}, cpuFact{CR4: mem.CR4VMXE}
	guest := func(module, before string) cpuFact {
		f := svm
		f.Guest = &guestFact{Back: pointer{Value: 0xffffffffc0401055}, Module: module, Before: before}
		return f
	}
	kvm := hypervisorFact{Module: "kvm_amd", SaveAreas: []address{0x4000, 0x5000}}
	tests := map[string]struct {
		cpu        cpuFact
		hypervisor hypervisorFact
		found      bool
	}{
		"KVM":                          {svm, kvm, false},
		"KVM, in a guest":              {guest("kvm_amd", vmrunCode), kvm, false},
		"KVM of Intel's":               {vmx, hypervisorFact{Module: "kvm_intel"}, false},
		"a page of KVM's, not known":   {svm, hypervisorFact{Module: "kvm_amd"}, false},
		"no page yet":                  {cpuFact{EFER: mem.EFERSVME}, kvm, false},
		"VMX by the kernel itself":     {vmx, hypervisorFact{Core: true}, false},
		"modules not known":            {svm, hypervisorFact{Unknown: "why"}, false},
		"SVM without KVM":              {svm, hypervisorFact{}, true},
		"SVM with another's":           {svm, hypervisorFact{Module: "kvm_intel"}, true},
		"VMX without KVM":              {vmx, hypervisorFact{}, true},
		"another page":                 {svm, hypervisorFact{Module: "kvm_amd", SaveAreas: []address{0x4000}}, true},
		"back to another module":       {guest("bluepill", vmrunCode), kvm, true},
		"back to no module":            {guest("", vmrunCode), kvm, true},
		"back to elsewhere in KVM":     {guest("kvm_amd", "909090"), kvm, true},
		"in a guest, KVM is not there": {guest("", vmrunCode), hypervisorFact{}, true},
	}
	for name, tt := range tests {
		data := registersData{CPUs: []cpuFact{tt.cpu}, Hypervisor: &tt.hypervisor}
		if found := data.hypervisors(); (len(found) > 0) != tt.found {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// guestsMachine shows CPUs of which some run guests and cannot be read.
type guestsMachine struct {
	Machine
	all []mem.Registers
}

func (m guestsMachine) Registers(context.Context) ([]mem.Registers, error) { return m.all, nil }
func (m guestsMachine) PausedFor() time.Duration                           { return time.Millisecond }

func TestCPUsThatCannotBeReadAreNotMeasured(t *testing.T) {
	in := func(cpu int) mem.Registers {
		return mem.Registers{CPU: cpu, Virtualization: &mem.Virtualization{Guest: true, Unread: "it ran a guest of the target at each of 8 looks"}}
	}
	c := &collector{ctx: t.Context(), machine: guestsMachine{all: []mem.Registers{{CPU: 0, CR0: mem.CR0PG}, in(1)}}}
	if err := c.seek(); err != nil || len(c.registers) != 1 || c.registers[0].CPU != 0 || !c.absent.has(1) {
		t.Errorf("%v: %+v, %+v", err, c.registers, c.absent)
	}
	if err := c.absent.unaccounted(); err == nil || len(c.absent.offline()) != 0 {
		t.Errorf("%v, %+v", err, c.absent)
	}
	if len(c.pauses) != 1 {
		t.Errorf("pauses %v", c.pauses)
	}
	c.machine = guestsMachine{all: []mem.Registers{in(0), in(1)}}
	if err := c.seek(); !errors.Is(err, errAllUnread) || !elusive(err) {
		t.Errorf("none can be read: %v", err)
	}
	o := onlineCPUs{online: map[int]bool{0: true, 1: true}, tables: map[mem.Virt]int{0x1000: 0, 0x2000: 1}}
	first := []mem.Registers{{CR0: mem.CR0PG, GDT: mem.Table{Base: 0x1000}, TR: mem.Segment{Selector: taskSelector}}}
	if rest, ok := o.unstarted(first, 1); len(rest) != 0 || !ok {
		t.Errorf("one read and one not: %v, %v", rest, ok)
	}
	if _, ok := o.unstarted(first, 0); ok {
		t.Error("a CPU that is on line is missing")
	}
}
