package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// errPrivateRAM: the lab writes guest memory through the shared file only.
var errPrivateRAM = errors.New("the machine's RAM is private: start it with shared RAM to tamper with memory")

// guestMemory reads and writes a running guest's memory by kernel virtual
// address, through the RAM file and a page walk of its own. It is deliberately
// not the product's: a fault in the product's walk must not hide itself by
// being in the tamper too.
type guestMemory struct {
	file *os.File
	size int64
	regs registers
	xen  bool // the tables are Xen's own
}

// registers are the few of CPU 0 that tampers need.
type registers struct {
	cr3, cr4      uint64
	idt, gdt, tss uint64 // base addresses
}

func (m *Machine) openMemory(ctx context.Context) (*guestMemory, error) {
	if m.RAM == "" {
		return nil, errPrivateRAM
	}
	regs, err := m.readRegisters(ctx)
	if m.Xen != "" {
		regs, err = m.registersOfXen(ctx)
	}
	if err != nil {
		return nil, err
	}
	g, err := m.openPhysical()
	if err != nil {
		return nil, err
	}
	g.regs = regs
	if m.Xen != "" {
		err = g.useXens(m.Xen)
	}
	return g, err
}

// openPhysical is openMemory for physical addresses only, which needs no registers.
func (m *Machine) openPhysical() (*guestMemory, error) {
	file, err := os.OpenFile(m.RAM, os.O_RDWR, 0)
	return &guestMemory{file: file, size: m.Memory}, err
}

func (g *guestMemory) close() error { return g.file.Close() }

// read fills buf from virtual address v.
func (g *guestMemory) read(v uint64, buf []byte) error {
	return g.each(v, buf, func(off int64, part []byte) error {
		_, err := g.file.ReadAt(part, off)
		return err
	})
}

// write stores data at virtual address v, whatever the page's protection.
func (g *guestMemory) write(v uint64, data []byte) error {
	return g.each(v, data, func(off int64, part []byte) error { return g.store(off, part) })
}

func (g *guestMemory) readWord(v uint64) (uint64, error) {
	var buf [8]byte
	err := g.read(v, buf[:])
	return binary.LittleEndian.Uint64(buf[:]), err
}

// writePhys stores data at a guest-physical address, within one page.
func (g *guestMemory) writePhys(phys uint64, data []byte) error {
	off, err := g.fileOffset(phys)
	if err != nil {
		return err
	}
	return g.store(off, data)
}

// store writes to the RAM file. A pointer is one store, as a CPU that follows it
// meanwhile would see it of another CPU: what a system call writes may come in
// pieces.
func (g *guestMemory) store(off int64, data []byte) error {
	const page = 4096
	if len(data) != 8 || off%8 != 0 {
		_, err := g.file.WriteAt(data, off)
		return err
	}
	mapped, err := syscall.Mmap(int(g.file.Fd()), off&^(page-1), page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&mapped[off%page])), binary.NativeEndian.Uint64(data))
	return syscall.Munmap(mapped)
}

func (g *guestMemory) readPhys(phys uint64, buf []byte) error {
	off, err := g.fileOffset(phys)
	if err != nil {
		return err
	}
	_, err = g.file.ReadAt(buf, off)
	return err
}

// each splits buf at page boundaries.
func (g *guestMemory) each(v uint64, buf []byte, do func(off int64, part []byte) error) error {
	const page = 4096
	for len(buf) > 0 {
		phys, err := g.translate(v)
		if err != nil {
			return err
		}
		off, err := g.fileOffset(phys)
		if err != nil {
			return err
		}
		n := min(len(buf), int(page-v%page))
		if err := do(off, buf[:n]); err != nil {
			return fmt.Errorf("guest memory at %#x: %w", v, err)
		}
		buf, v = buf[n:], v+uint64(n)
	}
	return nil
}

// Source: Intel SDM, volume 3A, section 4.5 (4-level and 5-level paging).
const (
	entryPresent   = 1 << 0
	entryWritable  = 1 << 1
	entryUser      = 1 << 2
	entryLarge     = 1 << 7
	entryNoExecute = 1 << 63
	entryAddress   = 0x000f_ffff_ffff_f000
	cr4LA57        = 1 << 12
	cr3UserPTI     = 1 << 12 // Linux: the user half of a pair of page tables (PTI_USER_PGTABLE_BIT)
)

// pageEntry is one entry met on a walk.
type pageEntry struct {
	phys  uint64 // where the entry lies
	value uint64
	shift int // log2 of the bytes it maps
}

// walk lists the entries from the root down to the one that maps v; the last
// is not present if nothing does.
//
// With page-table isolation a CPU in user mode has tables without most of the
// kernel; the kernel's lie in the page before them. Without it bit 12 is a
// plain address bit (always so since 6.15, where isolation that is off takes
// no second page), and that page may hold anything: it counts only where it
// agrees with the CPU's own or where that has nothing.
func (g *guestMemory) walk(v uint64) ([]pageEntry, error) {
	root := g.regs.cr3 & entryAddress
	own, err := g.walkFrom(root, v)
	if root&cr3UserPTI == 0 || g.xen {
		return own, err
	}
	kernels, errKernels := g.walkFrom(root&^cr3UserPTI, v)
	if errKernels != nil || err != nil || len(kernels) != len(own) {
		if err == nil && own[len(own)-1].value&entryPresent != 0 || errKernels != nil {
			return own, err
		}
		return kernels, nil
	}
	mine, theirs := own[len(own)-1].value, kernels[len(kernels)-1].value
	if mine&entryPresent == 0 || mine&entryAddress == theirs&entryAddress {
		return kernels, nil
	}
	return own, nil
}

func (g *guestMemory) walkFrom(table, v uint64) ([]pageEntry, error) {
	shift := 39
	if g.regs.cr4&cr4LA57 != 0 {
		shift = 48
	}
	var entries []pageEntry
	for ; ; shift -= 9 {
		e := pageEntry{phys: table + v>>shift&0x1ff*8, shift: shift}
		var raw [8]byte
		if err := g.readPhys(e.phys, raw[:]); err != nil {
			return nil, err
		}
		e.value = binary.LittleEndian.Uint64(raw[:])
		entries = append(entries, e)
		if e.value&entryPresent == 0 || shift == 12 || shift <= 30 && e.value&entryLarge != 0 {
			return entries, nil
		}
		table = e.value & entryAddress
	}
}

// translate walks the page tables of CPU 0.
func (g *guestMemory) translate(v uint64) (uint64, error) {
	entries, err := g.walk(v)
	if err != nil {
		return 0, err
	}
	leaf := entries[len(entries)-1]
	if leaf.value&entryPresent == 0 {
		return 0, fmt.Errorf("guest address %#x is not mapped", v)
	}
	offset := uint64(1)<<leaf.shift - 1
	return leaf.value&entryAddress&^offset | v&offset, nil
}

// fileOffset finds a guest-physical address in the RAM file. Source: QEMU,
// hw/i386/pc_q35.c, pc_q35_init: RAM of 2.75 GiB or more is split at 2 GiB and
// goes on at 4 GiB.
func (g *guestMemory) fileOffset(phys uint64) (int64, error) {
	below := uint64(g.size)
	if below >= 0xb000_0000 {
		below = 0x8000_0000
	}
	const high = 1 << 32
	switch {
	case phys < below:
		return int64(phys), nil
	case phys >= high && phys-high < uint64(g.size)-below:
		return int64(phys - high + below), nil
	}
	return 0, fmt.Errorf("guest-physical address %#x is not RAM", phys)
}

var (
	controlRegister = regexp.MustCompile(`\bCR([34])=([0-9a-f]+)`)
	tableRegister   = regexp.MustCompile(`(?m)^([IG]DT)= +([0-9a-f]+)`)
	taskRegister    = regexp.MustCompile(`(?m)^(TR) *=[0-9a-f]+ ([0-9a-f]+)`)
)

// readRegisters asks the monitor for CPU 0's registers.
func (m *Machine) readRegisters(ctx context.Context) (registers, error) {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return registers{}, err
	}
	defer monitor.Close()
	text, err := monitor.HMP(ctx, "info registers")
	if err != nil {
		return registers{}, err
	}
	values := make(map[string]uint64)
	for _, match := range slices.Concat(controlRegister.FindAllStringSubmatch(text, -1),
		tableRegister.FindAllStringSubmatch(text, -1), taskRegister.FindAllStringSubmatch(text, -1)) {
		if values[match[1]], err = strconv.ParseUint(match[2], 16, 64); err != nil {
			return registers{}, fmt.Errorf("register %s: %w", match[0], err)
		}
	}
	r := registers{cr3: values["3"], cr4: values["4"], idt: values["IDT"], gdt: values["GDT"], tss: values["TR"]}
	if r.cr3 == 0 || r.idt == 0 || r.gdt == 0 || r.tss == 0 {
		return r, fmt.Errorf("registers not understood:\n%s", tail(text, 20))
	}
	return r, nil
}
