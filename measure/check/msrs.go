package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.msrs: on every CPU system calls enter the kernel where it has its
// entries for them (LSTAR, CSTAR, SYSENTER_EIP), with the kernel's segments
// (STAR, SYSENTER_CS) and stack (SYSENTER_ESP), interrupts off and the other
// flags cleared that the entries rely on (FMASK).
//
// Proves: what these registers held at one moment. Trusts: the VMM for their
// values; for the entries' addresses the expected image or, without one, the
// target's symbols; linux.text for what the entries do. It cannot see a change
// that is put back before and made again after the scan. Where the source does
// not show the registers (a dump), nothing is measured.
const msrsName = "linux.msrs"

func msrsCheck() check {
	return check{name: msrsName, plan: planMSRs, collect: collectMSRs, judge: judgeMSRs}
}

// systemCallSource is a [Machine] that shows the registers of system calls. It
// may stop the target for it, apart from the scan's own pause.
type systemCallSource interface {
	SystemCalls(ctx context.Context) ([]mem.SystemCalls, error)
}

var errNoSystemCalls = errors.New("the source does not show the registers of system calls")

// msrsData are the facts of linux.msrs.
type msrsData struct {
	CPUs   []msrFact  `json:"cpus"`
	Absent absentCPUs `json:"absent,omitempty"`
	// Entries are the addresses of the kernel's entries as the target says.
	Entries map[string]address `json:"entries"`
	// FRED says that the kernel takes system calls by other means, as CR4 has it
	// or, without registers, the kernel.
	FRED bool `json:"fred,omitempty"`
	// Vendor is the processor's as the kernel has it: "GenuineIntel".
	Vendor string `json:"vendor,omitempty"`
}

type msrFact struct {
	CPU         int     `json:"cpu"`
	STAR        address `json:"star"`
	LSTAR       pointer `json:"lstar"`
	CSTAR       pointer `json:"cstar"`
	FMASK       address `json:"fmask"`
	SysenterCS  address `json:"sysenter_cs"`
	SysenterESP address `json:"sysenter_esp"`
	SysenterEIP pointer `json:"sysenter_eip"`
	// EntryStack is where the CPU's entry stack ends; zero if the target's types
	// do not tell.
	EntryStack address `json:"entry_stack,omitempty"`
}

// The kernel's entries for system calls (arch/x86/entry/entry_64.S and
// entry_64_compat.S; which are used: syscall_init, arch/x86/kernel/cpu/common.c).
const (
	entry64       = "entry_SYSCALL_64"
	entryCompat   = "entry_SYSCALL_compat"
	entrySysenter = "entry_SYSENTER_compat"
	entryIgnore   = "ignore_sysret"          // without 32-bit emulation, to 6.6
	entryIgnore32 = "entry_SYSCALL32_ignore" // the same, from 6.7 on
	cr4FRED       = 1 << 32                  // flexible return and event delivery is on
	featureFRED   = 12*32 + 17
	starSegments  = address(0x0023_0010) << 32     // __USER32_CS, __KERNEL_CS
	neededFlags   = address(0x0004_7700)           // AC, NT, IOPL, DF, IF, TF; more from 5.14 on
	low32         = address(0x0000_0000_ffff_ffff) // what AMD processors keep of SYSENTER's
)

// msrAttempts is how often these registers are read while CPUs come on line: each
// may stop the target. A CPU that comes and goes all the time is without them for
// up to a twentieth of it.
const msrAttempts = 6

func planMSRs(c *collector) error {
	source, ok := c.machine.(systemCallSource)
	if !ok {
		return errNoSystemCalls
	}
	for range msrAttempts {
		var err error
		c.systemCalls, err = source.SystemCalls(c.ctx)
		if clock, ok := c.machine.(pauseClock); ok {
			c.stopped(clock.PausedFor())
		}
		if err != nil {
			return err
		}
		if c.callsApart = c.callsUnread(); c.callsPass() {
			continue
		}
		if len(c.registers) == 0 || !slices.ContainsFunc(c.systemCalls, c.unwritten) {
			break
		}
		c.lookAtCPUs()
		if !slices.ContainsFunc(c.systemCalls, c.unwritten) {
			break
		}
	}
	return nil
}

// unwritten reports whether the kernel has not yet written what it needs
// (syscall_init) to the registers of a CPU that has started: it may just have come
// on line, between two looks.
func (c *collector) unwritten(s mem.SystemCalls) bool {
	return !c.absent.has(s.CPU) && s.Virtualization == nil && !c.fred() && (s.STAR == 0 || s.LSTAR == 0 || s.FMASK == 0)
}

// fred reports whether a CPU takes system calls by other means.
func (c *collector) fred() bool {
	return slices.ContainsFunc(c.registers, func(r mem.Registers) bool { return r.CR4&cr4FRED != 0 })
}

func collectMSRs(c *collector) (any, measure.Coverage, error) {
	data := msrsData{Entries: make(map[string]address), Absent: append(slices.Clone(c.absent), c.callsApart...), Vendor: c.vendor()}
	for _, name := range []string{entry64, entryCompat, entrySysenter, entryIgnore, entryIgnore32} {
		if at, ok := c.profile.Symbol(name); ok {
			data.Entries[name] = address(at)
		}
	}
	for _, s := range c.systemCalls {
		if data.Absent.has(s.CPU) {
			continue
		}
		f := msrFact{CPU: s.CPU, STAR: address(s.STAR), FMASK: address(s.FMASK),
			SysenterCS: address(s.SysenterCS), SysenterESP: address(s.SysenterESP),
			LSTAR: c.pointer("LSTAR", 0, mem.Virt(s.LSTAR)), CSTAR: c.pointer("CSTAR", 0, mem.Virt(s.CSTAR)),
			SysenterEIP: c.pointer("SYSENTER_EIP", 0, mem.Virt(s.SysenterEIP))}
		for _, r := range c.registers {
			if r.CPU == s.CPU {
				data.FRED = data.FRED || r.CR4&cr4FRED != 0
				if r.Known("GDT") {
					f.EntryStack = c.stackTops(r.GDT.Base)["rsp0"]
				}
			}
		}
		data.CPUs = append(data.CPUs, f)
	}
	if len(c.registers) == 0 {
		// The kernel clears the feature if it does not use it.
		capability, err := c.capability()
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		data.FRED = (&registersData{Capability: capability}).has(featureFRED)
	}
	return data, measure.Coverage{Objects: int64(7 * len(data.CPUs))}, nil
}

// vendorIntel is how Intel's processors name themselves (Intel SDM vol. 2, CPUID).
const vendorIntel = "GenuineIntel"

// vendor is the name that the processors' maker gives them, as the kernel has it
// (struct cpuinfo_x86), empty if that cannot be read.
func (c *collector) vendor() string {
	at, ok := c.profile.Symbol("boot_cpu_data")
	offset, err := c.profile.Types.Offset("cpuinfo_x86", "x86_vendor_id")
	if !ok || err != nil {
		return ""
	}
	name, err := c.space.CString(at+mem.Virt(offset), 16)
	if err != nil {
		return ""
	}
	return name
}

func judgeMSRs(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data msrsData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.CPUs) == 0 {
		return cmp.Or(data.Absent.unaccounted(), errNotObserved)
	}
	if j.code.err != nil {
		return j.code.err
	}
	if _, ok := j.at(entry64, data.Entries[entry64]); !ok {
		return fmt.Errorf("where %s is, is not known", entry64)
	}
	if data.FRED {
		return errors.New("the kernel takes system calls by FRED, whose registers are not observed")
	}
	for i := range data.CPUs {
		judge := msrJudge{judging: j, data: &data, cpu: &data.CPUs[i]}
		judge.syscall()
		judge.sysenter()
		out.Findings = append(out.Findings, judge.found...)
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	out.Reason = remarks(data.Absent.leftOut(), j.trusts())
	return nil
}

// msrJudge judges the registers of one CPU.
type msrJudge struct {
	*judging
	data  *msrsData
	cpu   *msrFact
	found []measure.Finding
}

func (j *msrJudge) differs(register, observed, expected, explanation string) {
	j.found = append(j.found, measure.Finding{Symbol: fmt.Sprintf("%s of CPU %d", register, j.cpu.CPU),
		Observed: observed, Expected: expected, Explanation: explanation})
}

// is reports whether an address is one of these entries.
func (j *msrJudge) is(at address, names ...string) bool {
	for _, name := range names {
		if want, ok := j.at(name, j.data.Entries[name]); ok && at == want {
			return true
		}
	}
	return false
}

// shown is an entry with its name.
func (j *msrJudge) shown(p pointer) string {
	if name := j.name(p); name != "" {
		return fmt.Sprintf("%v (%s)", p.Value, name)
	}
	return p.Value.String()
}

func (j *msrJudge) syscall() {
	c := j.cpu
	if !j.is(c.LSTAR.Value, entry64) {
		j.differs("LSTAR", j.shown(c.LSTAR), entry64, "system calls do not enter the kernel where it has its entry for them")
	}
	// Intel's processors have no SYSCALL in 32-bit code, and since 5.16 Linux does not
	// write the register there (wrmsrl_cstar, arch/x86/kernel/cpu/common.c).
	unused := c.CSTAR.Value == 0 && j.data.Vendor == vendorIntel
	if !unused && !j.is(c.CSTAR.Value, entryCompat, entryIgnore, entryIgnore32) {
		j.differs("CSTAR", j.shown(c.CSTAR), entryCompat, "32-bit system calls do not enter the kernel where it has its entry for them")
	}
	if c.STAR != starSegments {
		j.differs("STAR", c.STAR.String(), starSegments.String(), "system calls run with other segments than the kernel's")
	}
	if c.FMASK&neededFlags != neededFlags || c.FMASK > low32 {
		j.differs("FMASK", c.FMASK.String(), fmt.Sprintf("at least %v", neededFlags), "system calls enter with flags that the kernel has cleared, as seen on every kernel since 5.10")
	}
}

// sysenter judges what Intel processors use from 32-bit code; AMD's keep the low
// half of the addresses. Without 32-bit emulation the kernel clears them.
func (j *msrJudge) sysenter() {
	c := j.cpu
	if c.SysenterCS == 0 && c.SysenterEIP.Value == 0 {
		return
	}
	if c.SysenterCS != kernelCS {
		j.differs("SYSENTER_CS", c.SysenterCS.String(), address(kernelCS).String(), "SYSENTER runs with another segment than the kernel's")
	}
	want, ok := j.at(entrySysenter, j.data.Entries[entrySysenter])
	if eip := c.SysenterEIP.Value; !ok || eip != want && eip != want&low32 {
		j.differs("SYSENTER_EIP", j.shown(c.SysenterEIP), entrySysenter, "SYSENTER does not enter the kernel where it has its entry for it")
	}
	at := c.SysenterESP
	own := c.EntryStack == 0 && inEntryArea(at) || c.EntryStack != 0 && (at == c.EntryStack || at == c.EntryStack&low32)
	if !own {
		j.differs("SYSENTER_ESP", at.String(), "the end of the CPU's entry stack", "SYSENTER runs on another stack than the kernel's")
	}
}
