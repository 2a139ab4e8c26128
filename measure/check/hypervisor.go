package check

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Part of linux.registers: who runs guests on the CPUs. Virtualization is on only
// while a module of KVM is there to use it; the page that a processor of AMD's saves
// the host's state in is KVM's; and a CPU that is in a guest comes back to the
// instruction after KVM's VMRUN. A kernel that somebody made a guest of his own (a
// "blue pill") shows in each of these.

// hypervisorFact is what the kernel has of that.
type hypervisorFact struct {
	// Module is the vendor's module of KVM that is loaded, if any.
	Module string `json:"module,omitempty"`
	// Unknown is why Module is not known.
	Unknown string `json:"unknown,omitempty"`
	// Core says that this kernel may have VMX on without KVM (arch/x86/virt/hw.c, for
	// TDX).
	Core bool `json:"core,omitempty"`
	// SaveAreas are KVM's pages for the host's state (struct svm_cpu_data), none if
	// its types do not tell.
	SaveAreas []address `json:"save_areas,omitempty"`
}

// guestFact is where a CPU that runs a guest goes back to.
type guestFact struct {
	Back   pointer `json:"back"`
	Before string  `json:"before"`           // bytes before, in hex
	Module string  `json:"module,omitempty"` // in whose text it is
}

// vmrunCode is VMRUN (AMD64 APM vol. 3).
const vmrunCode = "0f01d8"

// hypervisor reads the facts for registers, again if something is odd: a module may
// be loaded or unloaded meanwhile.
func (c *collector) hypervisor(data *registersData) error {
	registers := c.registers
	for n := 1; ; n++ {
		data.CPUs = nil
		on := false
		for _, r := range registers {
			f := cpuFact{CPU: r.CPU, CR0: r.CR0, CR4: r.CR4, EFER: r.EFER, DR7: r.DR[7], Missing: r.Missing}
			for i := range f.DR {
				f.DR[i] = address(r.DR[i])
			}
			on = on || r.Virtualizing()
			c.guest(&f, &r)
			data.CPUs = append(data.CPUs, f)
		}
		data.Hypervisor = nil
		if !on {
			return nil
		}
		data.Hypervisor = c.hypervisorFacts()
		if len(data.hypervisors()) == 0 || n == rootAttempts {
			return nil
		}
		var unread absentCPUs
		var err error
		if registers, unread, err = c.readRegisters(); err != nil {
			return err
		}
		data.Absent = append(c.absent.offline(), unread...)
		registers = data.Absent.without(registers)
	}
}

func (c *collector) hypervisorFacts() *hypervisorFact {
	f := new(hypervisorFact)
	_, f.Core = c.profile.Symbol("x86_virt_get_ref")
	modules, err := c.profile.Modules()
	if err != nil {
		f.Unknown = err.Error()
		return f
	}
	for i, m := range modules {
		if ofProcessor(m.Name) {
			f.Module = m.Name
			f.SaveAreas = c.saveAreas(&modules[i])
		}
	}
	return f
}

// saveAreas reads where KVM has each CPU save the host's state (per-CPU svm_data,
// arch/x86/kvm/svm/svm.c, since 6.1).
func (c *collector) saveAreas(m *kernel.LoadedModule) (out []address) {
	types, err := c.profile.ModuleTypes(m)
	if err != nil {
		return nil
	}
	offset, err := types.Offset("svm_cpu_data", "save_area_pa")
	if err != nil {
		return nil
	}
	symbols, err := c.moduleSymbols(m)
	if err != nil {
		return nil
	}
	at, ok := symbols.Address("svm_data")
	bases, err := c.profile.PerCPU()
	if !ok || err != nil {
		return nil
	}
	for _, base := range bases {
		v, err := c.space.U64(base + mem.Virt(at+offset))
		if err != nil {
			return nil
		}
		out = append(out, address(v))
	}
	return out
}

// guest reads where a CPU that runs a guest goes back to.
func (c *collector) guest(f *cpuFact, r *mem.Registers) {
	v := r.Virtualization
	if v == nil {
		return
	}
	f.HostState = address(v.HostState)
	if !v.Guest {
		return
	}
	back := mem.Virt(r.RIP)
	f.Guest = &guestFact{Back: c.pointer("host RIP", 0, back)}
	before := make([]byte, len(vmrunCode)/2)
	if err := c.root.Read(before, back-mem.Virt(len(before))); err == nil {
		f.Guest.Before = hex.EncodeToString(before)
	}
	for i := range c.modules {
		if area, ok := c.modules[i].Area(kernel.AreaText); ok && area.Contains(back) {
			f.Guest.Module = c.modules[i].Name
		}
	}
}

// hypervisors finds who else than KVM uses virtualization.
func (d *registersData) hypervisors() (out []measure.Finding) {
	h := d.Hypervisor
	if h == nil || h.Unknown != "" {
		return nil
	}
	for _, f := range d.CPUs {
		found := func(symbol, observed, expected, explanation string) {
			out = append(out, measure.Finding{Symbol: fmt.Sprintf("%s of CPU %d", symbol, f.CPU), Observed: observed, Expected: expected, Explanation: explanation})
		}
		svm, vmx := f.EFER&mem.EFERSVME != 0, f.CR4&mem.CR4VMXE != 0
		switch {
		case svm && h.Module != "kvm_amd":
			found("EFER", fmt.Sprintf("%#x", f.EFER), "SVME off", "virtualization is on, and KVM's module for it is not loaded")
		case vmx && h.Module != "kvm_intel" && !h.Core:
			found("CR4", fmt.Sprintf("%#x", f.CR4), "VMXE off", "virtualization is on, and KVM's module for it is not loaded")
		}
		if svm && f.HostState != 0 && len(h.SaveAreas) > 0 && !slices.Contains(h.SaveAreas, f.HostState) {
			found("VM_HSAVE_PA", f.HostState.String(), "a page of KVM's", "the processor keeps the host's state where KVM has no page for it")
		}
		if f.Guest != nil && (f.Guest.Module != "kvm_amd" || f.Guest.Before != vmrunCode) {
			out = append(out, measure.Finding{Address: f.Guest.Back.Value.String(), Symbol: fmt.Sprintf("host RIP of CPU %d", f.CPU),
				Observed: strings.TrimSpace(f.Guest.Back.Symbol + " after " + f.Guest.Before), Expected: "kvm_amd, after VMRUN (" + vmrunCode + ")",
				Explanation: "the CPU runs a guest, and goes back to other code than KVM's: the kernel itself may be the guest"})
		}
	}
	return out
}
