package xentest

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Machine is a machine with one CPU that has booted the Xen of [File]. Its
// memory is RAM, from physical address 0 on; tests change what they like.
type Machine struct {
	RAM  []byte
	CPUs []mem.Registers
	MSRs []mem.SystemCalls
}

// Physical layout of the machine, beside the image.
const (
	ramSize  = 6 << 20
	tables   = 0x10_0000 // page tables but the top one
	StubPage = mem.Phys(0x11_0000)
	Domain   = mem.Phys(0x11_1000)
	// StubAt is where the stub page of CPU 0 is mapped.
	StubAt mem.Virt = 0xffff_82d0_7fff_e000
	// DirectMap is where all of RAM is mapped.
	DirectMap mem.Virt = 0xffff_8300_0000_0000
)

// Entry bits (Intel SDM vol. 3A, table 4-20).
const (
	Present  = 1 << 0
	Writable = 1 << 1
	User     = 1 << 2
	large    = 1 << 7
	NX       = 1 << 63
)

// Boot returns the machine.
func Boot() *Machine {
	m := &Machine{RAM: make([]byte, ramSize)}
	b := fresh()
	b.boot()
	copy(m.RAM[Phys:], b)
	m.mapAll()
	m.stubs()
	binary.LittleEndian.PutUint64(m.RAM[Domain+8:], 0) // domain 0, PV, alone
	m.CPUs = []mem.Registers{{CR0: mem.CR0PG | mem.CR0WP | 1, CR3: uint64(Phys) + Tables, CR4: mem.CR4PAE | mem.CR4SMEP | mem.CR4SMAP,
		EFER: mem.EFERSCE | mem.EFERLME | mem.EFERLMA | mem.EFERNXE, IDT: mem.Table{Base: Base + IDT, Limit: 0xfff}}}
	m.MSRs = []mem.SystemCalls{{STAR: 0xe023_e008 << 32, LSTAR: uint64(StubAt), CSTAR: uint64(StubAt) + 32, FMASK: 0x7_4700}}
	return m
}

// boot changes the image as Xen does.
func (b image) boot() {
	b.code(Alternative, 0x0f, 0x01, 0xca)
	b.code(Twin, 0x0f, 0x01, 0xca)
	b.code(Untouched, 0x0f, 0x1f, 0x00)
	for _, at := range []int{Call, CallTwin} {
		b.code(at, 0xe8)
		b.branch(at+1, 0x2384) // behind the mark of "marked"
		b[at+5] = 0x90
	}
	b.put64(Data, uint64(Address("marked")))
	b.put64(SetAtBoot+8, uint64(Address("second")))
	for i := range 3 { // sorted
		b.rel(Exceptions+8*i, 0x2220+16*i)
		b.rel(Exceptions+8*i+4, 0x2230+16*i)
	}
	clear(b[initData:initEnd])
	for i, word := range []uint32{1<<6 | 1, 0, 1<<20 | 1<<29, 0, 0, 1<<7 | 1<<20} {
		b.put32(cpuData+12+4*i, word)
	}
	b.put64(perCPU, uint64(Base)+IDT)
	b.put64(domainList, uint64(DirectMap)+uint64(Domain))
	b.put64(domainHash, uint64(DirectMap)+uint64(Domain))
	for v := range 256 {
		at, kind, stack := uint64(Base)+0x1000+uint64(16*v), byte(0x8e), byte(0)
		if name, own := exceptions[v]; own {
			at = uint64(Address(name))
			stack = map[int]byte{1: 3, 2: 2, 8: 4, 18: 1}[v]
		}
		if v == 3 || v == 4 || v == 0x80 {
			kind = 0xee
		}
		g := b[IDT+16*v:]
		binary.LittleEndian.PutUint16(g, uint16(at))
		binary.LittleEndian.PutUint16(g[2:], 0xe008)
		g[4], g[5] = stack, kind
		binary.LittleEndian.PutUint16(g[6:], uint16(at>>16))
		binary.LittleEndian.PutUint32(g[8:], uint32(at>>32))
	}
}

// set stores an entry of a page table.
func (m *Machine) set(table mem.Phys, index int, value uint64) {
	binary.LittleEndian.PutUint64(m.RAM[table+mem.Phys(8*index):], value)
}

// The tables below the top one.
const (
	imageL3 = mem.Phys(tables)
	imageL2 = imageL3 + 0x1000
	imageL1 = imageL2 + 0x1000
	stubL2  = imageL1 + 0x1000
	stubL1  = stubL2 + 0x1000
	ramL3   = stubL1 + 0x1000
	ramL2   = ramL3 + 0x1000
)

func (m *Machine) mapAll() {
	const link = Present | Writable
	top := Phys + Tables
	m.set(top, 261, uint64(imageL3)|link)
	m.set(top, 262, uint64(ramL3)|link)
	m.set(imageL3, 321, uint64(imageL2)|link)
	m.set(imageL2, 1, uint64(imageL1)|link)
	m.set(imageL2, 511, uint64(stubL1)|link)
	m.set(stubL1, 510, uint64(StubPage)|Present)
	m.set(ramL3, 0, uint64(ramL2)|link)
	m.set(ramL2, 0, 0|link|large|NX)
	m.set(ramL2, 1, 0x20_0000|link|large|NX)
	m.set(ramL2, 2, 0x40_0000|link|large|NX)
	for page := range size / mem.PageSize {
		flags := uint64(link | NX)
		switch off := page * mem.PageSize; {
		case off < Rodata:
			flags = Present
		case off < RodataEnd:
			flags = Present | NX
		case off >= initData && off < initEnd:
			continue
		}
		m.set(imageL1, page, uint64(Phys)+uint64(page*mem.PageSize)|flags)
	}
}

// Page is where the entry lies that maps a page of the image, by its number.
func Page(number int) mem.Phys { return imageL1 + mem.Phys(8*number) }

// Slot is where an entry of Xen's top table lies.
func Slot(number int) mem.Phys { return Phys + Tables + mem.Phys(8*number) }

// stubs writes the entry stubs of CPU 0.
func (m *Machine) stubs() {
	page := m.RAM[StubPage:][:mem.PageSize]
	for i := range page {
		page[i] = 0xcc
	}
	const stack = uint64(DirectMap) + 0x12_7f98
	for i, name := range []string{"lstar_enter", "cstar_enter"} {
		s := append([]byte{0x48, 0xa3}, binary.LittleEndian.AppendUint64(nil, stack)...)
		s = append(s, 0x48, 0x89, 0xe0, 0x48, 0xbc)
		s = binary.LittleEndian.AppendUint64(s, stack)
		s = append(s, 0xe9)
		end := StubAt + mem.Virt(32*i) + mem.Virt(len(s)) + 4
		copy(page[32*i:], binary.LittleEndian.AppendUint32(s, uint32(Address(name)-end)))
	}
}

// Put64 stores a word at a physical address.
func (m *Machine) Put64(at mem.Phys, v uint64) { binary.LittleEndian.PutUint64(m.RAM[at:], v) }

// Image is the machine's memory from an offset into the image on.
func (m *Machine) Image(off int) []byte { return m.RAM[int(Phys)+off:] }

// ReadPhys implements [mem.Reader].
func (m *Machine) ReadPhys(p []byte, at mem.Phys) error {
	if uint64(at) > uint64(len(m.RAM)) || len(p) > len(m.RAM)-int(at) {
		return mem.ErrNotMapped
	}
	copy(p, m.RAM[at:])
	return nil
}

// Extents implements [mem.Reader].
func (m *Machine) Extents() []mem.Extent { return []mem.Extent{{Size: uint64(len(m.RAM))}} }

// Memory, Registers, Pause and SystemCalls make it a target of a scan.
func (m *Machine) Memory() mem.Reader { return m }

// Registers returns those of all CPUs.
func (m *Machine) Registers(context.Context) ([]mem.Registers, error) {
	return slices.Clone(m.CPUs), nil
}

// Pause stops nothing: the machine stands still.
func (m *Machine) Pause(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// SystemCalls returns the registers of system calls.
func (m *Machine) SystemCalls(context.Context) ([]mem.SystemCalls, error) { return m.MSRs, nil }
