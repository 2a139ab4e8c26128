package dump

import (
	"bytes"
	"debug/elf"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Bounds: QEMU's own limit for x86 is 4096 CPUs, each with notes of 1 KiB.
const (
	maxCPUs  = 4096
	maxNotes = 16 << 20 // bytes
)

// notes reads the registers of all CPUs: note "QEMU" of type 0, one a CPU in
// their order (QEMU, target/i386/arch_dump.c, x86_cpu_write_elf64_qemunote). The
// NT_PRSTATUS notes, for debuggers, must be as many; files that have only those,
// such as makedumpfile's, have no control registers and so none for us.
func (d *Dump) notes(src *source, at, size uint64) error {
	if size > maxNotes || len(d.cpus) > 0 {
		return fmt.Errorf("%w: notes of %d bytes at offset %#x", ErrFormat, size, at)
	}
	b := make([]byte, size)
	if err := src.read(b, at); err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	statuses := 0
	for c := bin.Little(b); c.Len() > 0; {
		nameSize, descSize, kind := c.U32(), c.U32(), c.U32()
		name := bytes.TrimRight(padded(c, nameSize), "\x00")
		desc := padded(c, descSize)
		if c.Err() != nil {
			return fmt.Errorf("notes: %w", c.Err())
		}
		switch {
		case string(name) == "CORE" && elf.NType(kind) == elf.NT_PRSTATUS:
			statuses++
		case string(name) == "VMCOREINFO" && kind == 0:
			d.coreInfo = bytes.Clone(desc)
		case string(name) == "QEMU" && kind == 0:
			cpu, err := parseState(desc)
			if err != nil {
				return fmt.Errorf("registers of CPU %d: %w", len(d.cpus), err)
			}
			if len(d.cpus) == maxCPUs {
				return fmt.Errorf("%w: more than %d CPUs", ErrFormat, maxCPUs)
			}
			cpu.CPU = len(d.cpus)
			d.cpus = append(d.cpus, cpu)
		}
	}
	if len(d.cpus) > 0 && statuses != len(d.cpus) {
		return fmt.Errorf("%w: registers of %d of %d CPUs", ErrFormat, len(d.cpus), statuses)
	}
	return nil
}

// padded reads n bytes and what aligns them to 4.
func padded(c *bin.Cursor, n uint32) []byte {
	b := c.Bytes(int(n))
	c.Skip(min(int(-n&3), c.Len()))
	return b
}

// stateSize is the least size of QEMUCPUState, up to cr[4]; later QEMUs append
// kernel_gs_base.
const stateSize = 8 + 18*8 + 10*24 + 5*8

// parseState reads QEMUCPUState (QEMU, target/i386/arch_dump.c), version 1.
func parseState(desc []byte) (mem.Registers, error) {
	c := bin.Little(desc)
	version, size := c.U32(), c.U32()
	switch {
	case version != 1:
		return mem.Registers{}, fmt.Errorf("%w: state of version %d", ErrNotSupported, version)
	case size < stateSize || int64(size) > int64(len(desc)):
		return mem.Registers{}, fmt.Errorf("%w: state of %d bytes in %d", ErrFormat, size, len(desc))
	}
	r := mem.Registers{Missing: []string{"EFER", "DR7"}}
	c.Skip(6 * 8) // 0x08 rax, rbx, rcx, rdx, rsi, rdi
	r.RSP = c.U64()
	c.Skip(9 * 8) // 0x40 rbp, r8 to r15
	r.RIP, r.RFLAGS = c.U64(), c.U64()
	r.CS = segment(c)
	segment(c) // DS
	segment(c) // ES
	r.FSBase, r.GSBase = segment(c).Base, segment(c).Base
	r.CPL = int(segment(c).Flags >> 13 & 3) // SS.DPL (Intel SDM vol. 3A, 5.5)
	r.LDT, r.TR = segment(c), segment(c)
	gdt, idt := segment(c), segment(c)
	r.GDT = mem.Table{Base: gdt.Base, Limit: gdt.Limit}
	r.IDT = mem.Table{Base: idt.Base, Limit: idt.Limit}
	r.CR0 = c.U64()
	c.Skip(8)
	r.CR2, r.CR3, r.CR4 = c.U64(), c.U64(), c.U64()
	return r, c.Err()
}

// segment reads QEMUCPUSegment: selector, limit, flags, padding, base.
func segment(c *bin.Cursor) mem.Segment {
	s := mem.Segment{Selector: uint16(c.U32()), Limit: c.U32(), Flags: c.U32()}
	c.Skip(4)
	s.Base = mem.Virt(c.U64())
	return s
}
