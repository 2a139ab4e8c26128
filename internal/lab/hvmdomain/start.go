package main

import (
	"encoding/binary"
	"fmt"
)

// Segments of the domain.
const (
	codeSegment = 0x08
	dataSegment = 0x10
)

// Records of a context (include/public/hvm/save.h: type, instance, length, then
// the record; arch-x86/hvm/save.h: struct hvm_save_header and struct hvm_hw_cpu).
const (
	recordEnd    = 0
	recordHeader = 1
	recordCPU    = 2
	cpuSize      = 1024

	contextMagic, contextVersion = 0x5438_1286, 1
)

// start lets a domain run: each CPU gets registers in long mode, with page tables,
// segments and interrupts of its own and an address for system calls as a kernel
// of a guest would have.
func (x *hypervisor) start(id uint16, cpus int) error {
	if err := x.load(id); err != nil {
		return err
	}
	header := binary.LittleEndian.AppendUint32(nil, contextMagic)
	header = binary.LittleEndian.AppendUint32(header, contextVersion)
	context := record(nil, recordHeader, 0, append(header, make([]byte, 16)...)) // of no Xen, processor and clock
	for cpu := range cpus {
		context = record(context, recordCPU, cpu, registers(cpu))
	}
	context = record(context, recordEnd, 0, nil)
	if len(context) > pageSize {
		return fmt.Errorf("%d CPUs are too many", cpus)
	}
	clear(x.page[pageSize:])
	copy(x.page[pageSize:], context)
	_, err := x.domctl(setHVMContext, id, func(u []byte) { // struct xen_domctl_hvmcontext
		binary.LittleEndian.PutUint32(u, uint32(len(context)))
		binary.LittleEndian.PutUint64(u[8:], x.at(pageSize))
	})
	if err != nil {
		return err
	}
	_, err = x.domctl(unpauseDomain, id, func([]byte) {})
	return err
}

func record(to []byte, kind, instance int, b []byte) []byte {
	to = binary.LittleEndian.AppendUint16(to, uint16(kind))
	to = binary.LittleEndian.AppendUint16(to, uint16(instance))
	to = binary.LittleEndian.AppendUint32(to, uint32(len(b)))
	return append(to, b...)
}

// registers is what a CPU begins with. Even ones compute most of the time, odd ones
// leave the domain often.
func registers(cpu int) []byte {
	b := make([]byte, 512, cpuSize) // the FPU's
	u64 := func(list ...uint64) {
		for _, v := range list {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	}
	u32 := func(list ...uint32) {
		for _, v := range list {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	}
	spin := []uint64{1 << 22, 1 << 12}[cpu%2]
	u64(0, 0, 0, 0, spin, 0, 0, stacksAt+uint64(cpu+1)*pageSize) // RAX, RBX, RCX, RDX, RBP, RSI, RDI, RSP
	u64(0, 0, 0, 0, 0, 0, 0, 0, programAt, 2)                    // R8 to R15, RIP, RFLAGS
	u64(0x8001_0033, 0, tablesAt, 0x20)                          // CR0: PG, WP, NE, ET, MP, PE; CR2; CR3; CR4: PAE
	u64(0, 0, 0, 0, 0xffff_0ff0, 0x400)                          // DR0 to DR3, DR6, DR7
	const data = dataSegment
	u32(codeSegment, data, data, data, data, data, 0, 0) // CS, DS, ES, FS, GS, SS, TR, LDT
	u32(1<<32-1, 1<<32-1, 1<<32-1, 1<<32-1, 1<<32-1, 1<<32-1, 0x67, 0)
	u32(pageSize-1, 3*8-1)                        // of IDT and GDT
	u64(0, 0, 0, 0, 0, 0, segmentsAt+0x800, 0)    // bases
	u64(interruptsAt, segmentsAt)                 //
	u32(0xa9b, 0xc93, 0xc93, 0xc93, 0xc93, 0xc93) // rights: 64-bit code, data
	u32(0x8b, 0)                                  // a busy TSS, no LDT
	u64(codeSegment, stacksAt, programAt)         // SYSENTER
	u64(0, 0)                                     // the other GS, flags
	u64(programAt, (codeSegment<<48|codeSegment<<32)&(1<<63-1), programAt, 0x200)
	u64(0xd01, 0, 0) // EFER: NXE, LMA, LME, SCE; TSC_AUX; TSC
	u32(0, 0, 0, 0)  // no event pending; the FPU is as after a reset
	return b
}
