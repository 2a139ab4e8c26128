package check

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.registers: every CPU has write protection, no-execute and the other
// protections on that the kernel found the processor to have, and debug
// registers watch kernel addresses only for the kernel's own breakpoints. Guests run
// on them by KVM alone (hypervisor.go).
//
// Proves: the state of the control registers at the moment they were read.
// Trusts: the VMM for their values, and the target's memory for which features
// the processor has; a feature that was switched off by a boot parameter looks
// like one the processor lacks. The registers of system calls are linux.msrs. A
// source that lacks EFER or the debug registers, such as a dump, is not measured.
const registersName = "linux.registers"

func registersCheck() check {
	return check{name: registersName, collect: collectRegisters, judge: judgeRegisters}
}

// registersData are the facts of linux.registers.
type registersData struct {
	CPUs       []cpuFact  `json:"cpus"`
	Absent     absentCPUs `json:"absent,omitempty"`
	Capability []uint32   `json:"capability"`        // boot_cpu_data.x86_capability
	Pinned     uint64     `json:"pinned"`            // cr4_pinned_bits, 0 if the kernel has none
	Watched    [4]bool    `json:"watched"`           // slots in which the kernel has a breakpoint, on any CPU
	Unknown    string     `json:"unknown,omitempty"` // why Watched is not known

	Hypervisor *hypervisorFact `json:"hypervisor,omitempty"` // if virtualization is on
}

type cpuFact struct {
	CPU     int        `json:"cpu"`
	CR0     uint64     `json:"cr0"`
	CR4     uint64     `json:"cr4"`
	EFER    uint64     `json:"efer"`
	DR7     uint64     `json:"dr7"`
	DR      [4]address `json:"dr"`
	Missing []string   `json:"missing,omitempty"`

	HostState address    `json:"host_state,omitempty"` // VM_HSAVE_PA
	Guest     *guestFact `json:"guest,omitempty"`      // if it runs one
}

func collectRegisters(c *collector) (any, measure.Coverage, error) {
	data := registersData{Absent: c.absent}
	var err error
	if len(c.registers) == 0 {
		return nil, measure.Coverage{}, c.noRegisters()
	}
	if data.Capability, err = c.capability(); err != nil {
		return nil, measure.Coverage{}, fmt.Errorf("what the processor can do: %w", err)
	}
	if at, ok := c.profile.Symbol("cr4_pinned_bits"); ok {
		if data.Pinned, err = c.space.U64(at); err != nil {
			return nil, measure.Coverage{}, err
		}
	}
	if data.Watched, err = c.watched(); err != nil {
		data.Unknown = err.Error()
	}
	if err := c.hypervisor(&data); err != nil {
		return nil, measure.Coverage{}, err
	}
	return data, measure.Coverage{Objects: int64(len(data.CPUs))}, nil
}

// capability reads the feature words of the boot CPU (struct cpuinfo_x86).
func (c *collector) capability() ([]uint32, error) {
	at, ok := c.profile.Symbol("boot_cpu_data")
	if !ok {
		return nil, fmt.Errorf("no boot_cpu_data")
	}
	m, err := c.profile.Types.Member("cpuinfo_x86", "x86_capability")
	if err != nil {
		return nil, err
	}
	if m.Size > 256 {
		return nil, fmt.Errorf("x86_capability has %d bytes", m.Size)
	}
	raw := make([]byte, m.Size)
	if err := c.space.Read(raw, at+mem.Virt(m.Offset)); err != nil {
		return nil, err
	}
	words := make([]uint32, m.Size/4)
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(raw[i*4:])
	}
	return words, nil
}

// watched reads which breakpoint slots perf has in use on any CPU (per-CPU
// bp_per_reg, arch/x86/kernel/hw_breakpoint.c).
func (c *collector) watched() (slots [4]bool, err error) {
	at, ok := c.profile.Symbol("bp_per_reg")
	if !ok {
		return slots, fmt.Errorf("the kernel has no bp_per_reg")
	}
	bases, err := c.profile.PerCPU()
	if err != nil {
		return slots, err
	}
	for _, base := range bases {
		for i := range slots {
			v, err := c.space.U64(base + at + mem.Virt(i*8))
			if err != nil {
				return slots, err
			}
			slots[i] = slots[i] || v != 0
		}
	}
	return slots, nil
}

// feature is a processor feature and the control bit that should be on with it
// (numbers: arch/x86/include/asm/cpufeatures.h).
type feature struct {
	name   string
	number int
	bit    uint64
}

var cr4Features = []feature{
	{"SMEP", 9*32 + 7, mem.CR4SMEP},
	{"SMAP", 9*32 + 20, mem.CR4SMAP},
	{"UMIP", 16*32 + 2, mem.CR4UMIP},
}

const featureNX = 1*32 + 20

func judgeRegisters(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var data registersData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.CPUs) == 0 || len(data.Capability) == 0 {
		return errNotObserved
	}
	for _, cpu := range data.CPUs {
		out.Findings = append(out.Findings, cpu.protections(&data)...)
		found, err := cpu.breakpoints(&data)
		if err != nil {
			return err
		}
		out.Findings = append(out.Findings, found...)
	}
	out.Findings = append(out.Findings, data.hypervisors()...)
	if h := data.Hypervisor; h != nil && h.Unknown != "" {
		return fmt.Errorf("virtualization is on, and which modules there are was not read: %s", h.Unknown)
	}
	if missing := data.missing(); len(missing) > 0 {
		return fmt.Errorf("the source does not show %s", strings.Join(missing, ", "))
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	out.Reason = data.Absent.leftOut()
	return nil
}

// has reports whether the boot CPU has a feature.
func (d *registersData) has(number int) bool {
	return number/32 < len(d.Capability) && d.Capability[number/32]>>(number%32)&1 != 0
}

// missing names the registers a pass would vouch for and the source lacks.
func (d *registersData) missing() []string {
	var out []string
	for _, name := range []string{"EFER", "DR7"} {
		if slices.ContainsFunc(d.CPUs, func(f cpuFact) bool { return !f.knows(name) }) {
			out = append(out, name)
		}
	}
	return out
}

// protections finds protections that are off.
func (f *cpuFact) protections(d *registersData) []measure.Finding {
	var out []measure.Finding
	off := func(register string, value uint64, name string) {
		out = append(out, measure.Finding{
			Symbol: fmt.Sprintf("%s of CPU %d", register, f.CPU), Observed: fmt.Sprintf("%#x", value),
			Expected: name + " on", Explanation: name + " is off, which the kernel never leaves off",
		})
	}
	if f.CR0&mem.CR0WP == 0 {
		off("CR0", f.CR0, "write protection")
	}
	for _, feature := range cr4Features {
		if f.CR4&feature.bit == 0 && (d.has(feature.number) || d.Pinned&feature.bit != 0) {
			off("CR4", f.CR4, feature.name)
		}
	}
	if f.knows("EFER") {
		if f.EFER&mem.EFERNXE == 0 && d.has(featureNX) {
			off("EFER", f.EFER, "no-execute")
		}
		if f.EFER&mem.EFERSCE == 0 {
			off("EFER", f.EFER, "the system call instruction")
		}
	}
	return out
}

func (f *cpuFact) knows(register string) bool {
	for _, m := range f.Missing {
		if m == register {
			return false
		}
	}
	return true
}

// breakpoints finds debug registers that watch kernel addresses without the
// kernel's knowledge (Intel SDM vol. 3B, 17.2.4: two enable bits a slot).
func (f *cpuFact) breakpoints(d *registersData) ([]measure.Finding, error) {
	var out []measure.Finding
	if !f.knows("DR7") {
		return nil, nil
	}
	for slot, at := range f.DR {
		if f.DR7>>(2*slot)&3 == 0 || at>>63 == 0 || d.Watched[slot] {
			continue
		}
		if d.Unknown != "" {
			return nil, fmt.Errorf("a debug register watches %v, and whose it is could not be read: %s", at, d.Unknown)
		}
		out = append(out, measure.Finding{
			Address: at.String(), Symbol: fmt.Sprintf("DR%d of CPU %d", slot, f.CPU),
			Observed:    fmt.Sprintf("DR7 %#x", f.DR7),
			Explanation: "a hardware breakpoint on a kernel address that the kernel has no account of",
		})
	}
	return out, nil
}
