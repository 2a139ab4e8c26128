package xentest

import (
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Physical layout of what a hardware-assisted domain brings.
const (
	frameL2    = mem.Phys(0x14_0000)
	frameL1    = frameL2 + 0x1000
	frameTable = mem.Phys(0x15_0000)
	Assisted   = mem.Phys(0x16_0000) // struct domain, of domain 1
	P2M        = Assisted + 0x1000   // its struct p2m_domain
	VCPU       = Assisted + 0x2000
	VMCB       = Assisted + 0x3000
	HostState  = Assisted + 0x4000   // where the processor saves Xen's registers
	HostVMCB   = Assisted + 0x5000   // where Xen saves those that the processor does not
	firstVCPU  = Assisted + 0x6000   // of the first domain
	NestedL4   = mem.Phys(0x17_0000) // its nested page tables, down to NestedL1
	NestedL3   = NestedL4 + 0x1000
	NestedL2   = NestedL4 + 0x2000
	NestedL1   = NestedL4 + 0x3000
	Small      = mem.Phys(0x18_0000) // its memory: 16 pages, at 1 MiB of its own
	Large      = mem.Phys(0x40_0000) // and 2 MiB, at 4 MiB of its own
	// Foreign is a page of domain 0's memory.
	Foreign = mem.Phys(0x1a_0000)
)

// Offsets of members, as in Xen 4.17.
const (
	Options    = 0x13c
	domainP2M  = 0x4b8
	domainCPUs = 0x8
	P2MDomain  = 0x30
	P2MRoot    = 0x50
	CPUDomain  = 0x10
	CPUVMCB    = 0x5c8
)

// assisted writes the instructions that show these offsets.
func (b image) assisted() {
	// MOV 0x4b8(%RBX), %RDI; TEST %RDI, %RDI; JE; CALL; MOVQ $0, 0x4b8(%RBX)
	b.code(0x600, 0x48, 0x8b, 0xbb, 0xb8, 4, 0, 0, 0x48, 0x85, 0xff, 0x74, 0x10, 0xe8, 0, 0, 0, 0, 0x48, 0xc7, 0x83, 0xb8, 4, 0, 0, 0, 0, 0, 0, 0xc3)
	// MOV 0x30(%RDI), %RBP; CMPQ $0, 0x50(%RBX); JNE; CMP $-1, %RAX; MOV %RAX, 0x50(%RBX)
	b.code(0x640, 0x48, 0x8b, 0x6f, 0x30, 0x48, 0x83, 0x7b, 0x50, 0, 0x75, 0x10, 0x48, 0x83, 0xf8, 0xff, 0x48, 0x89, 0x43, 0x50, 0xc3)
	// MOV 8(%RBX), %RAX; TEST; JE; MOV (%RAX), %RBX; TEST; JE; MOV 0x18(%RBX), %RBX; TEST; JNE
	b.code(0x680, 0x48, 0x8b, 0x43, 8, 0x48, 0x85, 0xc0, 0x74, 0x10, 0x48, 0x8b, 0x18, 0x48, 0x85, 0xdb, 0x74, 0x10,
		0x48, 0x8b, 0x5b, 0x18, 0x48, 0x85, 0xdb, 0x75, 0xf7, 0xc3)
	// MOV 0x5c8(%RBX), %RAX; POP %RBX; STI; VMRUN
	b.code(0x6c0, 0x48, 0x8b, 0x83, 0xc8, 5, 0, 0, 0x5b, 0xfb, 0x0f, 0x01, 0xd8)
	// MOVABS $mask, %RSI; MOV 8(%RDI), %RDX; MOV 24(%RDI), %EAX; TEST %EAX, %EAX
	b.code(0x700, 0x48, 0xbe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x48, 0x8b, 0x57, 8, 0x8b, 0x47, 24, 0x85, 0xc0, 0xc3)
}

// BehindVMRUN is where Xen goes on when the domain's CPU leaves it.
const BehindVMRUN = Base + 0x6cc

// RunHVM returns that of [BootHVM] while its CPU runs the domain, as a source shows
// it: registers are Xen's, but for those of system calls, which are the domain's.
func RunHVM() *Machine {
	m := BootHVM()
	m.Load(true)
	m.CPUs[0].RIP = uint64(BehindVMRUN)
	m.CPUs[0].Virtualization = &mem.Virtualization{Guest: true, HostState: HostState}
	m.MSRs = []mem.SystemCalls{{STAR: 0x0023_0010 << 32, LSTAR: 0xffff_ffff_8100_0000, CSTAR: 0xffff_ffff_8100_0040, FMASK: 0x4_7700,
		Virtualization: m.CPUs[0].Virtualization}}
	return m
}

// Load says which virtual CPU's state Xen has put into the CPU: the domain's, or
// that of one of the first domain.
func (m *Machine) Load(assisted bool) {
	vcpu := VCPU
	if !assisted {
		vcpu = firstVCPU
	}
	m.Put64(Phys+perCPU+16, uint64(DirectMap)+uint64(vcpu))
}

// BootHVM returns a machine with a hardware-assisted domain, on an AMD processor.
func BootHVM() *Machine {
	m := Boot()
	m.CPUs[0].EFER |= mem.EFERSVME
	m.frames()
	virt := func(at mem.Phys) uint64 { return uint64(DirectMap) + uint64(at) }
	m.Put64(Domain+0x88, virt(Assisted)) // next_in_list
	m.Put64(Phys+domainHash+8, virt(Assisted))
	m.Put64(Assisted, 1)
	binary.LittleEndian.PutUint32(m.RAM[Assisted+Options:], 3)
	m.Put64(Assisted+domainP2M, virt(P2M))
	m.Put64(P2M+P2MDomain, virt(Assisted))
	m.Put64(P2M+P2MRoot, uint64(NestedL4/mem.PageSize))
	m.Put64(Assisted+domainCPUs, virt(Assisted+0x800))
	m.Put64(Assisted+0x800, virt(VCPU))
	m.Put64(VCPU+CPUDomain, virt(Assisted))
	m.Put64(VCPU+CPUVMCB, uint64(VMCB))
	m.Put64(Phys+perCPU+24, uint64(HostState))
	m.Put64(Phys+perCPU+32, uint64(HostVMCB))
	for i, v := range []uint64{m.MSRs[0].STAR, m.MSRs[0].LSTAR, m.MSRs[0].CSTAR, m.MSRs[0].FMASK} {
		m.Put64(HostVMCB+0x600+mem.Phys(8*i), v)
	}
	m.Put64(firstVCPU+CPUDomain, virt(Domain))
	m.Put64(VMCB+0x90, 1)
	m.Put64(VMCB+0xb0, uint64(NestedL4))
	const link = Present | Writable | User
	m.Put64(NestedL4, uint64(NestedL3)|link)
	m.Put64(NestedL3, uint64(NestedL2)|link)
	m.Put64(NestedL2, uint64(NestedL1)|link)
	m.Put64(NestedL2+2*8, uint64(Large)|link|large)
	for i := range mem.Phys(16) {
		m.Put64(NestedL1+8*(0x100+i), uint64(Small+i*mem.PageSize)|link)
	}
	return m
}

// frames makes the frame table.
func (m *Machine) frames() {
	const link = Present | Writable | NX
	m.set(imageL3, 384, uint64(frameL2)|link)
	m.set(frameL2, 0, uint64(frameL1)|link)
	for i := range ramSize / mem.PageSize * 32 / mem.PageSize {
		m.set(frameL1, i, uint64(frameTable+mem.Phys(i*mem.PageSize))|link)
	}
	for at := mem.Phys(0); at < ramSize; at += mem.PageSize {
		switch {
		case at >= Assisted && at <= VMCB || at == Domain:
			m.Frame(at, 1<<62, 0, 0)
		case at >= NestedL4 && at <= NestedL1:
			m.Frame(at, 0, uint64(4-(at-NestedL4)/mem.PageSize)<<61|1<<58|1, 0)
		case at >= Small && at < Small+16*mem.PageSize || at >= Large:
			m.Frame(at, 1<<63|1, 1, Assisted)
		case at == Foreign:
			m.Frame(at, 1<<63|1, 1, Domain)
		}
	}
}

// Frame sets what the frame table says of a frame (struct page_info): count_info,
// type_info and the owner's struct domain, 0 for none.
func (m *Machine) Frame(at mem.Phys, count, kind uint64, owner mem.Phys) {
	info := frameTable + at/mem.PageSize*32
	m.Put64(info+8, count)
	m.Put64(info+16, kind)
	m.Put64(info+24, uint64(owner/mem.PageSize))
}
