package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the domain has in its first pages, by physical address, which is the
// linear one too.
const (
	programAt    = 0x100000
	tablesAt     = 0x101000 // three: entries of 512 GiB, 1 GiB and 2 MiB
	interruptsAt = 0x104000
	segmentsAt   = 0x105000
	programPages = 6
	stacksAt     = 0x108000 // of a page for each CPU, downwards from its end
	vectorTimer  = 0x20
	vectorNone   = 0xff // what the interrupt controller raises for one that is gone
)

// program sets up a timer of 10 ms in the CPU's interrupt controller (x2APIC; Intel
// SDM vol. 3A, 11.12: registers at MSR 800h and up; Xen's timers count in 10 ns),
// then computes as long as RBP says, leaves the domain by CPUID, an I/O port and a
// hypercall (sched_op 29, yield), and sleeps until the timer wakes it.
var program = []byte{
	0xb9, 0x1b, 0x00, 0x00, 0x00, // mov $0x1b (APIC_BASE), %ecx
	0x0f, 0x32, // rdmsr
	0x0d, 0x00, 0x0c, 0x00, 0x00, // or $0xc00, %eax
	0x0f, 0x30, // wrmsr
	0x31, 0xd2, // xor %edx, %edx
	0xb9, 0x0f, 0x08, 0x00, 0x00, 0xb8, 0xff, 0x01, 0x00, 0x00, 0x0f, 0x30, // 80Fh: on, vector FFh
	0xb9, 0x3e, 0x08, 0x00, 0x00, 0xb8, 0x0b, 0x00, 0x00, 0x00, 0x0f, 0x30, // 83Eh: divide by 1
	0xb9, 0x32, 0x08, 0x00, 0x00, 0xb8, vectorTimer, 0x00, 0x02, 0x00, 0x0f, 0x30, // 832h: periodic
	0xb9, 0x38, 0x08, 0x00, 0x00, 0xb8, 0x40, 0x42, 0x0f, 0x00, 0x0f, 0x30, // 838h: 1,000,000
	0xfb,             // sti
	0x48, 0x89, 0xe9, // again: mov %rbp, %rcx
	0x48, 0xff, 0xc9, // dec %rcx
	0x75, 0xfb, // jnz to dec
	0x31, 0xc0, // xor %eax, %eax
	0x0f, 0xa2, // cpuid
	0xe6, 0x80, // out %al, $0x80
	0xb8, 0x1d, 0x00, 0x00, 0x00, // mov $29, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x01, 0xd9, // vmmcall
	0xf4,       // hlt
	0xeb, 0xe5, // jmp again
}

// handler ends an interrupt (80Bh) and returns; it is behind the program.
var handler = []byte{
	0x50, 0x51, 0x52, // push %rax, %rcx, %rdx
	0xb9, 0x0b, 0x08, 0x00, 0x00, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, // 80Bh: 0
	0x5a, 0x59, 0x58, // pop
	0x48, 0xcf, // iretq
}

const handlerAt = programAt + 0x800

// load writes the program and what it runs on.
func (x *hypervisor) load(id uint16) error {
	var b [programPages * pageSize]byte
	put := func(at, value uint64) { binary.LittleEndian.PutUint64(b[at-programAt:], value) }
	copy(b[:], program)
	copy(b[handlerAt-programAt:], handler)
	const present, large = 3, 0x80 // and writable
	put(tablesAt, tablesAt+0x1000|present)
	put(tablesAt+0x1000, tablesAt+0x2000|present)
	for i := range uint64(4) {
		put(tablesAt+0x2000+8*i, i<<21|large|present)
	}
	for _, vector := range []uint64{vectorTimer, vectorNone} { // interrupt gates (Intel SDM vol. 3A, 7.14.1)
		put(interruptsAt+16*vector, handlerAt>>16<<48|0x8e<<40|codeSegment<<16|handlerAt&0xffff)
	}
	put(segmentsAt+codeSegment, 0x00af9b000000ffff)
	put(segmentsAt+dataSegment, 0x00cf93000000ffff)
	return x.write(id, programAt/pageSize, b[:])
}

// ioctlMapBatch maps frames of a domain (include/uapi/xen/privcmd.h of Linux, struct
// privcmd_mmapbatch_v2, 32 bytes).
const ioctlMapBatch = 32<<16 | 'P'<<8 | 4

// write copies pages into a domain, from a guest frame on.
func (x *hypervisor) write(id uint16, gfn uint64, b []byte) error {
	n := len(b) / pageSize
	pages, err := unix.Mmap(int(x.file.Fd()), 0, len(b), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	frames, failed := make([]uint64, n), make([]int32, n)
	for i := range frames {
		frames[i] = gfn + uint64(i)
	}
	batch := struct {
		count  uint32
		domain uint16
		addr   *byte
		frames *uint64
		failed *int32
	}{uint32(n), id, &pages[0], &frames[0], &failed[0]}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, x.file.Fd(), ioctlMapBatch, uintptr(unsafe.Pointer(&batch)))
	if errno != 0 {
		unix.Munmap(pages)
		return fmt.Errorf("map memory of domain %d: %w", id, os.NewSyscallError("ioctl", errno))
	}
	copy(pages, b)
	return unix.Munmap(pages)
}
