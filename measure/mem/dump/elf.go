package dump

import (
	"debug/elf"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Sizes of ELF64 structures, in bytes (System V ABI, Object Files).
const (
	elfHeader  = 64
	progHeader = 56
	sectHeader = 64

	// manyHeaders in e_phnum (PN_XNUM) says that their number is in sh_info of
	// section header 0.
	manyHeaders = 0xffff
)

// withoutPaging says what to do about QEMU's dump-guest-memory with paging=true. It
// writes a header for each range that is mapped in one piece, a busy kernel's page
// tables make over 65,536 of them, and a range that crosses a hole in the RAM is cut
// off there (QEMU 7.2, dump/dump.c, get_offset_range): of 1 GiB 88 MiB could be
// found. What is missing is in the file, and nothing says where.
const withoutPaging = "dump without paging, which has one header for each range of RAM"

// The Linux kernel's own core files, /proc/kcore and /proc/vmcore, show ranges of
// its address space. Those that map RAM one to one have a physical address; others
// have none, or all ones (fs/proc/kcore.c, elf_kcore_store_hdr), and what is in the
// last 2 GiB is the kernel's image, which RAM holds too (imageRange).
const (
	noPhysical = ^uint64(0)
	imageRange = 0xffff_ffff_8000_0000
)

// openELF reads an ELF core file: PT_LOAD by physical address, PT_NOTE for the
// registers. debug/elf is not used: it reads section tables no dump needs.
func (d *Dump) openELF(src *source) error {
	headers, err := programHeaders(src)
	if err != nil {
		return err
	}
	var parts []filed
	for i := 0; i < len(headers); i += progHeader {
		c := bin.Little(headers[i : i+progHeader])
		kind := elf.ProgType(c.U32())
		c.Skip(4) // p_flags
		offset := c.U64()
		virt, phys, size := c.U64(), c.U64(), c.U64()
		switch {
		case kind == elf.PT_NOTE:
			if err := d.notes(src, offset, size); err != nil {
				return err
			}
		case kind == elf.PT_LOAD && size > 0 && phys != noPhysical && virt < imageRange:
			// Of p_memsz only p_filesz was dumped: makedumpfile leaves out pages at the
			// end of a range so. The rest is not known.
			parts = append(parts, filed{mem.Extent{Start: mem.Phys(phys), Size: size}, offset})
		}
	}
	d.memory, err = newRanges(src, parts)
	return err
}

// programHeaders checks the file header and returns the table.
func programHeaders(src *source) ([]byte, error) {
	var b [elfHeader]byte
	if err := src.read(b[:], 0); err != nil {
		return nil, err
	}
	if class, data := elf.Class(b[elf.EI_CLASS]), elf.Data(b[elf.EI_DATA]); class != elf.ELFCLASS64 || data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("%w: %v, %v: dumps of 64-bit x86 are read", ErrNotSupported, class, data)
	}
	c := bin.Little(b[:])
	c.Skip(elf.EI_NIDENT)
	kind, machine := elf.Type(c.U16()), elf.Machine(c.U16())
	c.Skip(4 + 8) // e_version, e_entry
	table, sections := c.U64(), c.U64()
	c.Skip(4 + 2) // e_flags, e_ehsize
	entry, count := c.U16(), uint32(c.U16())
	if kind != elf.ET_CORE {
		return nil, fmt.Errorf("%w: an ELF file of type %v, not a core file", ErrFormat, kind)
	}
	if machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%w: machine %v", ErrNotSupported, machine)
	}
	if count == manyHeaders {
		var s [sectHeader]byte
		if err := src.read(s[:], sections); err != nil {
			return nil, err
		}
		c := bin.Little(s[:])
		c.Skip(44)
		count = c.U32() // sh_info
	}
	if entry != progHeader {
		return nil, fmt.Errorf("%w: program headers of %d bytes", ErrFormat, entry)
	}
	if count > maxRanges {
		return nil, fmt.Errorf("%w: %d program headers, at most %d: %s", ErrNotSupported, count, maxRanges, withoutPaging)
	}
	headers := make([]byte, int(count)*progHeader)
	return headers, src.read(headers, table)
}
