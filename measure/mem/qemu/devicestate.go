package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

var errDeviceState = errors.New("QEMU's device state is not understood")

// A stream of device state starts with a magic number and its version, then
// holds one section after the other (QEMU, migration/savevm.c,
// qemu_save_device_state and save_section_header). All integers are big-endian.
//
//	u8 0x04, u32 section, u8 length and name, u32 instance, u32 version
//	the device's fields, whose layout only QEMU's source tells
//	u8 0x7e, u32 section
const (
	stateMagic    = 0x5145564d // "QEVM"
	stateVersion  = 3
	sectionFull   = 0x04
	sectionFooter = 0x7e
	cpuVersion    = 12 // of vmstate_x86_cpu, unchanged from QEMU 4 to 11

	// maxState bounds a stream, in bytes. That of a machine with two CPUs and
	// five devices is 281 kB.
	maxState = 64 << 20
)

// cpuState is what a "cpu" section tells that is of use here.
type cpuState struct {
	regs  mem.Registers // only fields that equal and stable compare
	calls mem.SystemCalls
	pat   uint64

	hflags, hflags2 uint32
	hostState       mem.Phys // MSR VM_HSAVE_PA
}

// inGuest reports whether the CPU runs a guest of the target's, or may.
func (s cpuState) inGuest() bool { return s.hflags&hfGuest != 0 || s.regs.Virtualizing() }

// cpuName is the name of a CPU's section, with its length.
var cpuName = []byte("\x03cpu")

// parseDeviceState finds the states of CPUs in a stream. Sections do not say
// how long they are, so headers are looked for; what other sections hold is in
// part the guest's, which could put there what looks like one. Two candidates
// for one CPU are therefore an error, never a choice.
func parseDeviceState(b []byte) (map[uint32]cpuState, error) {
	head := bin.Big(b)
	if magic, version := head.U32(), head.U32(); magic != stateMagic || version != stateVersion {
		return nil, fmt.Errorf("%w: magic %#x, version %d", errDeviceState, magic, version)
	}
	out := make(map[uint32]cpuState)
	for at := 0; ; {
		i := bytes.Index(b[at:], cpuName)
		if i < 0 {
			break
		}
		at += i + len(cpuName)
		instance, state, ok := cpuSection(b, at)
		if !ok {
			continue
		}
		if _, twice := out[instance]; twice || instance >= maxCPUs {
			return nil, fmt.Errorf("%w: CPU %d is there twice, or too large a number", errDeviceState, instance)
		}
		out[instance] = state
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no CPU of version %d", errDeviceState, cpuVersion)
	}
	return out, nil
}

// cpuSection reads the section whose name ends at an offset.
func cpuSection(b []byte, at int) (instance uint32, state cpuState, ok bool) {
	start := at - len(cpuName) - 5
	if start < 0 || b[start] != sectionFull {
		return 0, state, false
	}
	c := bin.Big(b[at:])
	instance = c.U32()
	if c.U32() != cpuVersion {
		return 0, state, false
	}
	state = cpuFields(c)
	state.regs.CPU, state.calls.CPU = int(instance), int(instance)
	footer := append([]byte{sectionFooter}, b[start+1:start+5]...)
	return instance, state, c.Err() == nil && bytes.Contains(b[at+c.Offset():], footer)
}

// cpuFields reads the fields of vmstate_x86_cpu, version 12, as far as the
// address of the host state page (QEMU 7.2, target/i386/machine.c; later ones add subsections only).
func cpuFields(c *bin.Cursor) (s cpuState) {
	r := &s.regs
	c.Skip(4 * 8) // rax, rcx, rdx, rbx
	r.RSP = c.U64()
	c.Skip(11 * 8) // rbp, rsi, rdi, r8 to r15
	r.RIP, r.RFLAGS = c.U64(), c.U64()
	s.hflags = c.U32()
	c.Skip(4*2 + 8*10)   // FPU control, status, tags, format; 8 registers
	c.Skip(segmentState) // es
	r.CS = segment(c)
	c.Skip(2 * segmentState) // ss, ds
	r.FSBase = segment(c).Base
	r.GSBase = segment(c).Base
	r.LDT, r.TR = segment(c), segment(c)
	gdt, idt := segment(c), segment(c)
	r.GDT, r.IDT = mem.Table{Base: gdt.Base, Limit: gdt.Limit}, mem.Table{Base: idt.Base, Limit: idt.Limit}
	s.calls.SysenterCS = uint64(c.U32())
	s.calls.SysenterESP, s.calls.SysenterEIP = c.U64(), c.U64()
	r.CR0, r.CR2, r.CR3, r.CR4 = c.U64(), c.U64(), c.U64(), c.U64()
	for i := range r.DR {
		r.DR[i] = c.U64()
	}
	c.Skip(4 + 4 + 16*16) // a20_mask, mxcsr, 16 vector registers
	r.EFER = c.U64()
	s.calls.STAR, s.calls.LSTAR, s.calls.CSTAR, s.calls.FMASK = c.U64(), c.U64(), c.U64(), c.U64()
	c.Skip(8 + 4) // kernelgsbase, smbase
	s.pat = c.U64()
	s.hflags2, s.hostState = c.U32(), mem.Phys(c.U64())
	return s
}

const (
	segmentState = 4 + 8 + 4 + 4 // bytes of vmstate_segment
	shownFlags   = 0x00ffff00    // of its flags, those that "info registers" prints
)

func segment(c *bin.Cursor) mem.Segment {
	return mem.Segment{Selector: uint16(c.U32()), Base: mem.Virt(c.U64()), Limit: c.U32(), Flags: c.U32() & shownFlags}
}

// differs names what a section has otherwise than the monitor shows: the layout
// is believed only if nothing does. Running CPUs keep what the kernel sets once;
// at one stop everything is the same.
func (s *cpuState) differs(r *mem.Registers, sameStop bool) string {
	pairs := []struct {
		name      string
		have, say any
		once      bool // set once by the kernel
	}{
		{"CR0", s.regs.CR0, r.CR0, true}, {"CR4", s.regs.CR4, r.CR4, true}, {"EFER", s.regs.EFER, r.EFER, true},
		{"GDT", s.regs.GDT, r.GDT, true}, {"IDT", s.regs.IDT, r.IDT, true},
		{"TR", s.regs.TR, r.TR, true}, {"DR7", s.regs.DR[7], r.DR[7], false},
		{"CR2", s.regs.CR2, r.CR2, false}, {"CR3", s.regs.CR3, r.CR3, false},
		{"CS", s.regs.CS, r.CS, false}, {"LDT", s.regs.LDT, r.LDT, false},
		{"FS", s.regs.FSBase, r.FSBase, false}, {"GS", s.regs.GSBase, r.GSBase, false},
		{"RIP", s.regs.RIP, r.RIP, false}, {"RSP", s.regs.RSP, r.RSP, false},
	}
	for _, p := range pairs {
		if (p.name == "RIP" || p.name == "RSP") && !r.Known("RIP") {
			continue // the monitor shows EIP and ESP of a CPU that is not in long mode
		}
		if (sameStop || p.once) && p.have != p.say {
			return p.name
		}
	}
	if why := flagsDiffer(s.hflags, &s.regs); why != "" {
		return why
	}
	// What follows the registers wanted must make sense too: types of memory in
	// the page attribute table (Intel SDM vol. 3A, table 12-10).
	for _, kind := range binary.LittleEndian.AppendUint64(nil, s.pat) {
		if kind > 7 || kind == 2 || kind == 3 {
			return "PAT"
		}
	}
	return ""
}

// flagsDiffer names a bit of hflags that is not as in the register that it is from
// (target/i386/cpu.h; x86_update_hflags, target/i386/helper.c).
func flagsDiffer(hflags uint32, r *mem.Registers) string {
	for _, bit := range []struct {
		name  string
		flag  uint32
		value bool
	}{
		{"PE", hfPE, r.CR0&cr0PE != 0}, {"LMA", hfLMA, r.EFER&mem.EFERLMA != 0}, {"OSFXSR", hfOSFXSR, r.CR4&cr4OSFXSR != 0},
	} {
		if (hflags&bit.flag != 0) != bit.value {
			return "hflags." + bit.name
		}
	}
	return ""
}
