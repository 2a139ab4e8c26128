package xen

import (
	"errors"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Errors of profiles and images.
var (
	// ErrNotXen: the CPUs do not run a Xen, or the file is not one.
	ErrNotXen = errors.New("not a Xen hypervisor")
	// ErrLayout: a Xen in which something is not where this package knows it.
	ErrLayout = errors.New("a Xen of an unknown layout")
	// ErrNoRegisters: a source without registers shows no Xen.
	ErrNoRegisters = errors.New("the source has no registers")
)

// Where Xen is linked and runs since 4.14; there is no KASLR
// (include/asm/config.h: XEN_VIRT_START, XEN_IMG_OFFSET).
const (
	virtStart mem.Virt = 0xffff_82d0_4000_0000
	// Base is the address of the first byte of the image, _start.
	Base mem.Virt = virtStart + 0x20_0000
	// last is the end of the gigabyte in which image, stubs and fixmap lie.
	last mem.Virt = virtStart + 0x3fff_ffff
)

// The slots of a top page table that are Xen's own (include/asm/config.h:
// ROOT_PAGETABLE_FIRST_XEN_SLOT and LAST): a guest's linear page tables, maps of
// its memory, Xen's image, the frame table and all of RAM. From DirectMapEnd on
// addresses are a guest's.
const (
	First        mem.Virt = 0xffff_8000_0000_0000
	DirectMap    mem.Virt = 0xffff_8300_0000_0000
	DirectMapEnd mem.Virt = 0xffff_8800_0000_0000
	perDomain    mem.Virt = 0xffff_8200_0000_0000 // the next 512 GiB are per domain
)

// maxImage bounds the size of an image in memory, in bytes. Debian's take 4 MiB.
const maxImage = 32 << 20
