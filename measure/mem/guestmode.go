package mem

import "github.com/plumbline-sec/plumbline/internal/bin"

// Virtualization is what a source tells of a CPU that has virtualization switched
// on (EFER.SVME or CR4.VMXE): the target may run guests of its own on it. While it
// does, what the VMM has as the CPU's registers is that guest's. [Registers] and
// [SystemCalls] are never those: they are what the processor goes back to when it
// leaves the guest, or not known.
type Virtualization struct {
	// Guest says that the CPU ran a guest of the target's when it was looked at.
	Guest bool
	// User says that it ran user mode of the target's own.
	User bool
	// HostState is where the processor keeps what it goes back to (MSR VM_HSAVE_PA,
	// AMD64 APM vol. 2, 15.30.4); zero where nobody set it, or on Intel's.
	HostState Phys
	// Unread is why the target's own registers are not known: all others of the CPU
	// are then zero. It is empty if they are.
	Unread string
}

// Unread is why the registers of a CPU are not known, empty if they are.
func (r *Registers) Unread() string {
	if r.Virtualization == nil {
		return ""
	}
	return r.Virtualization.Unread
}

// InGuest reports whether the CPU ran a guest of the target's.
func (r *Registers) InGuest() bool { return r.Virtualization != nil && r.Virtualization.Guest }

// Virtualizing reports whether the CPU may run guests.
func (r *Registers) Virtualizing() bool { return r.EFER&EFERSVME != 0 || r.CR4&CR4VMXE != 0 }

// SaveArea is the state save area of a VMCB, which has the layout of the host's too
// in QEMU's TCG (AMD64 APM vol. 2, table B-2). What VMRUN saves and #VMEXIT loads is
// in Registers, but for TR, LDT, FSBase and GSBase: these, and the registers of system
// calls, are there only if the hypervisor put them there with VMSAVE.
type SaveArea struct {
	Registers   Registers
	SystemCalls SystemCalls
}

// saveAreaAt is where the area begins in the page.
const saveAreaAt = 0x400

// ParseSaveArea reads the state save area in a page, which has PageSize bytes.
func ParseSaveArea(page []byte) SaveArea {
	var a SaveArea
	r, s := &a.Registers, &a.SystemCalls
	u64 := func(at int) uint64 { return bin.Little(page[saveAreaAt+at:]).U64() }
	segment := func(at int) Segment {
		c := bin.Little(page[saveAreaAt+at:])
		selector, attributes := c.U16(), uint32(c.U16())
		limit := c.U32()
		return Segment{Selector: selector, Limit: limit, Base: Virt(c.U64()), Flags: attributes&0xff<<8 | attributes&0xf00<<12}
	}
	table := func(at int) Table { s := segment(at); return Table{Base: s.Base, Limit: s.Limit} }
	r.CS, r.LDT, r.TR = segment(0x10), segment(0x70), segment(0x90)
	r.FSBase, r.GSBase = segment(0x40).Base, segment(0x50).Base
	r.GDT, r.IDT = table(0x60), table(0x80)
	r.EFER = u64(0xd0)
	r.CR4, r.CR3, r.CR0 = u64(0x148), u64(0x150), u64(0x158)
	r.DR[7], r.DR[6] = u64(0x160), u64(0x168)
	r.RFLAGS, r.RIP, r.RSP = u64(0x170), u64(0x178), u64(0x1d8)
	s.STAR, s.LSTAR, s.CSTAR, s.FMASK = u64(0x200), u64(0x208), u64(0x210), u64(0x218)
	s.SysenterCS, s.SysenterESP, s.SysenterEIP = u64(0x228), u64(0x230), u64(0x238)
	r.CR2 = u64(0x240)
	return a
}
