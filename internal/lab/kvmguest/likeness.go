package main

import "encoding/binary"

// Where things lie in the machine's memory, in bytes.
const (
	memorySize = 4 << 20
	pageSize   = 4096

	topTable  = 0x1000 // page tables
	lowTable  = 0x2000
	lowPages  = 0x3000
	areaTable = 0x4000 // of the entry area
	areaPages = 0x5000
	areaLeafs = 0x6000
	textTable = 0x7000
	textPages = 0x8000
	idtFrame  = 0x10000
	gdtFrame  = 0x11000
	tssFrame  = 0x14000
	codeFrame = 0x200000
)

// Where a Linux without randomization has what it has (Documentation/arch/x86/
// x86_64/mm.rst; arch/x86/include/asm/pgtable_areas.h).
const (
	entryArea = 0xfffffe0000000000 // descriptors of interrupts, then the first CPU's
	text      = 0xffffffff81000000
	stackTop  = text + 0x100000

	interruptVector = 0x20
	handler         = text + 0x800
	systemCall      = text + 0xa00
)

// codeAt is where the CPUs of each kind begin.
var codeAt = map[string]uint64{"spin": text, "io": text + 0x100, "hlt": text + 0x200}

var code = map[uint64][]byte{
	text:         {0xeb, 0xfe},             // jmp .
	text + 0x100: {0xe6, 0x80, 0xeb, 0xfc}, // outb %al,$0x80; jmp
	text + 0x200: {0xf4, 0xeb, 0xfd},       // hlt; jmp
	handler:      {0x48, 0xcf},             // iretq
	systemCall:   {0x48, 0x0f, 0x07},       // sysretq
}

// furnish writes page tables, descriptors and code (Intel SDM vol. 3A, 4.5, 3.4.5
// and 7.14.1).
func furnish(memory []byte) {
	put := func(table, index int, value uint64) { binary.LittleEndian.PutUint64(memory[table+8*index:], value) }
	const table, large = 3, 0x83 // present, writable; a page of 2 MiB
	put(topTable, 0, lowTable|table)
	put(lowTable, 0, lowPages|table)
	put(lowPages, 0, large)
	put(lowPages, 1, 0x200000|large)
	put(topTable, entryArea>>39&511, areaTable|table)
	put(areaTable, 0, areaPages|table)
	put(areaPages, 0, areaLeafs|table)
	for i := range 8 {
		put(areaLeafs, i, uint64(idtFrame+i*pageSize)|table)
	}
	put(topTable, 511, textTable|table)
	put(textTable, 510, textPages|table)
	put(textPages, 8, codeFrame|large)

	for i := range 256 {
		const gate = 0x8e // present, interrupt
		put(idtFrame, 2*i, handler&0xffff|0x10<<16|gate<<40|handler>>16&0xffff<<48)
		put(idtFrame, 2*i+1, handler>>32&0xffffffff)
	}
	for i, descriptor := range []uint64{0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff} {
		put(gdtFrame, i, descriptor)
	}
	for at, b := range code {
		copy(memory[codeFrame+at-text:], b)
	}
}

// longMode writes struct kvm_sregs: cs to ss, tr, ldt, gdt, idt, cr0 to cr4, cr8,
// efer, apic_base and a bitmap of interrupts.
func longMode(s []byte) {
	segment := func(index int, base uint64, limit uint32, selector uint16, kind byte, long byte) {
		at := s[24*index:] // struct kvm_segment
		binary.LittleEndian.PutUint64(at, base)
		binary.LittleEndian.PutUint32(at[8:], limit)
		binary.LittleEndian.PutUint16(at[12:], selector)
		ordinary := byte(1)
		if selector == 0x40 {
			ordinary = 0
		}
		copy(at[14:], []byte{kind, 1, 0, 1 - long, ordinary, long, ordinary, 0, 0, 0}) // type, present, dpl, db, s, l, g, avl
	}
	segment(0, 0, 0xffffffff, 0x10, 11, 1)
	for i := 1; i < 6; i++ {
		segment(i, 0, 0xffffffff, 0x18, 3, 0)
	}
	segment(6, entryArea+0x4000, 0x206f, 0x40, 11, 1) // TR
	table := func(at int, base uint64, limit uint16) {
		binary.LittleEndian.PutUint64(s[at:], base)
		binary.LittleEndian.PutUint16(s[at+8:], limit)
	}
	table(192, entryArea+0x1000, 127) // GDT
	table(208, entryArea, 0xfff)      // IDT
	for at, value := range map[int]uint64{
		224: 0x80050033, // CR0
		232: 0,          // CR2
		240: topTable,   // CR3
		248: 0x20,       // CR4: PAE, and none of the protections
		264: 0x501,      // EFER: SCE, LME, LMA
	} {
		binary.LittleEndian.PutUint64(s[at:], value)
	}
}

// general writes struct kvm_regs.
func general(rip, rsp uint64) []byte {
	r := make([]byte, 144)
	binary.LittleEndian.PutUint64(r[48:], rsp)
	binary.LittleEndian.PutUint64(r[128:], rip)
	binary.LittleEndian.PutUint64(r[136:], 0x202) // interrupts on
	return r
}

// modelSpecific writes struct kvm_msrs: the registers of system calls as Linux has
// them, but with an entry of the guest's (AMD64 APM vol. 2, 6.1).
func modelSpecific() []byte {
	values := []struct{ register, value uint64 }{
		{0xc0000081, 0x0023_0010_0000_0000}, // STAR
		{0xc0000082, systemCall},            // LSTAR
		{0xc0000083, systemCall},            // CSTAR
		{0xc0000084, 0x47700},               // FMASK
		{0xc0000102, 0xffff888000000000},    // KERNEL_GS_BASE
	}
	b := make([]byte, 8+16*len(values))
	binary.LittleEndian.PutUint32(b, uint32(len(values)))
	for i, v := range values {
		binary.LittleEndian.PutUint32(b[8+16*i:], uint32(v.register))
		binary.LittleEndian.PutUint64(b[16+16*i:], v.value)
	}
	return b
}
