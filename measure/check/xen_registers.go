package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.registers: every CPU has write protection and no-execute on, and SMEP and
// SMAP where Xen found the processor to have them; and where SVM is on, the
// processor keeps Xen's state, while it runs a domain, in the page that Xen has for
// it, and goes on in Xen behind VMRUN.
//
// Proves: the state of the control registers at the moment they were read; of a CPU
// that ran a hardware-assisted domain then, what it has when it leaves it.
// Trusts: the VMM for their values, and Xen's memory for what the processor has;
// a feature that was switched off by a boot parameter looks like one that it
// lacks. The registers through which system calls enter are xen.msrs'. Debug
// registers are not judged: a PV guest sets them for itself, and Xen limits them to
// the guest's addresses.
const xenRegistersName = "xen.registers"

func xenRegistersCheck() check {
	return check{name: xenRegistersName, collect: collectXenRegisters, judge: judgeXenRegisters}
}

// xenRegisters are the facts of xen.registers.
type xenRegisters struct {
	CPUs       []xenCPU `json:"cpus"`
	Capability []uint32 `json:"capability"` // the first words of boot_cpu_data.x86_capability
	// Masked are the bits of CR4 that Xen takes away while it runs 32-bit PV
	// guests (cr4_pv32_mask), zero where it runs none.
	Masked uint64     `json:"masked"`
	Absent absentCPUs `json:"absent,omitempty"` // CPUs whose registers are not known
}

type xenCPU struct {
	CPU     int      `json:"cpu"`
	CPL     int      `json:"cpl"`
	CR0     uint64   `json:"cr0"`
	CR4     uint64   `json:"cr4"`
	EFER    uint64   `json:"efer"`
	Missing []string `json:"missing,omitempty"`

	// InDomain says that the CPU ran a hardware-assisted domain: the registers are what
	// it goes back to.
	InDomain bool    `json:"in_domain,omitempty"`
	RIP      address `json:"rip,omitempty"` // where it goes on, if it is in a domain
	// HostState is where the processor keeps these registers, and Reserved where Xen
	// has memory for that, or Unknown why there is none to compare with; of a CPU on
	// which virtualization is on.
	HostState mem.Phys `json:"host_state,omitempty"`
	Reserved  mem.Phys `json:"reserved,omitempty"`
	Unknown   string   `json:"unknown,omitempty"`
}

// capabilityAt is the offset of x86_capability in struct cpuinfo_x86
// (include/asm/processor.h): family, vendor, model and stepping in a byte each,
// then two levels of CPUID.
const (
	capabilityAt    = 12
	capabilityWords = 8
)

func collectXenRegisters(c *collector) (any, measure.Coverage, error) {
	data := xenRegisters{Absent: c.absent}
	at, ok := c.xen.Symbol("boot_cpu_data")
	if !ok {
		return nil, measure.Coverage{}, fmt.Errorf("no boot_cpu_data")
	}
	for i := range capabilityWords {
		v, err := c.space.U32(at + capabilityAt + mem.Virt(4*i))
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		data.Capability = append(data.Capability, v)
	}
	if at, ok := c.xen.Symbol("cr4_pv32_mask"); ok {
		v, err := c.space.U64(at)
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		data.Masked = v
	}
	for _, r := range c.registers {
		f := xenCPU{CPU: r.CPU, CPL: r.CPL, CR0: r.CR0, CR4: r.CR4, EFER: r.EFER, Missing: r.Missing}
		c.hostStateOf(&r, &f)
		data.CPUs = append(data.CPUs, f)
	}
	return data, measure.Coverage{Objects: int64(len(data.CPUs))}, nil
}

// Features by word and bit (include/public/arch-x86/cpufeatureset.h: word 0 is
// leaf 1 EDX, 2 is 0x80000001 EDX, 5 is 7 EBX).
const (
	xenPAE  = 0*32 + 6
	xenNX   = 2*32 + 20
	xenLM   = 2*32 + 29
	xenSMEP = 5*32 + 7
	xenSMAP = 5*32 + 20
)

func (d *xenRegisters) has(number int) bool {
	return number/32 < len(d.Capability) && d.Capability[number/32]>>(number%32)&1 != 0
}

func judgeXenRegisters(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data xenRegisters
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.CPUs)+len(data.Absent) == 0 {
		return errNotObserved
	}
	var unknown error
	var inside []string
	for _, f := range data.CPUs {
		if f.InDomain {
			inside = append(inside, strconv.Itoa(f.CPU))
		}
		out.Findings = append(out.Findings, f.protections(&data)...)
		found, err := f.hostState(j)
		out.Findings = append(out.Findings, found...)
		unknown = errors.Join(unknown, err)
	}
	if !data.has(xenPAE) || !data.has(xenLM) { // every processor that runs Xen has both
		return fmt.Errorf("what Xen says of the processor (%08x) does not hold together", data.Capability)
	}
	for _, f := range data.CPUs {
		for _, name := range f.Missing {
			if name == "EFER" {
				return fmt.Errorf("the source does not show EFER")
			}
		}
	}
	if len(inside) > 0 {
		out.Reason = fmt.Sprintf("CPU %s ran a domain: what it goes back to is judged", strings.Join(inside, ", "))
	}
	return errors.Join(unknown, data.Absent.unaccounted())
}

func (f *xenCPU) protections(d *xenRegisters) []measure.Finding {
	var out []measure.Finding
	need := func(register string, value, bit uint64, name string, features ...int) {
		for _, feature := range features {
			if !d.has(feature) {
				return
			}
		}
		if value&bit == 0 {
			out = append(out, measure.Finding{
				Symbol: fmt.Sprintf("%s of CPU %d", register, f.CPU), Observed: fmt.Sprintf("%#x", value),
				Expected: name + " on", Explanation: name + " is off, which Xen never leaves off",
			})
		}
	}
	need("CR0", f.CR0, mem.CR0WP, "write protection")
	if f.CPL == 0 || d.Masked&mem.CR4SMEP == 0 {
		need("CR4", f.CR4, mem.CR4SMEP, "SMEP", xenSMEP)
	}
	if f.CPL == 0 || d.Masked&mem.CR4SMAP == 0 {
		need("CR4", f.CR4, mem.CR4SMAP, "SMAP", xenSMAP)
	}
	for _, name := range f.Missing {
		if name == "EFER" {
			return out
		}
	}
	need("EFER", f.EFER, mem.EFERNXE, "no-execute", xenNX)
	need("EFER", f.EFER, mem.EFERSCE, "the system call instruction")
	return out
}
