package kernel

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Errors of reading kernel and module files.
var (
	ErrFormat   = errors.New("not a kernel file of a known format")
	ErrTooLarge = errors.New("larger than any kernel")
)

// elfFile is a 64-bit little-endian x86-64 ELF file, as far as section headers
// go (System V ABI, "Sections"; Linux' include/uapi/linux/elf.h).
type elfFile struct {
	sections []elfSection
	end      int // of the section header table, where vmlinux.relocs follow
}

type elfSection struct {
	name       string
	kind       uint32
	flags      uint64
	addr       uint64
	size       uint64
	data       []byte // nil for SHT_NOBITS
	link, info uint32
	align      uint64
}

// Section kinds and flags (ELF-64 object file format 1.5, tables 8 and 9).
const (
	shtSymtab = 2
	shtRela   = 4
	shtNobits = 8

	shfWrite = 1
	shfAlloc = 2
	shfExec  = 4

	shfStrings = 0x20
	// Linux (include/uapi/linux/elf.h): relocations that the live patching core
	// applies.
	shfRelaLivepatch = 0x0010_0000
)

func parseELF(data []byte) (*elfFile, error) {
	c := bin.Little(data)
	if !bytes.Equal(c.Bytes(6), []byte{0x7f, 'E', 'L', 'F', 2, 1}) {
		return nil, fmt.Errorf("%w: no 64-bit ELF header", ErrFormat)
	}
	c.Seek(0x12)
	if machine := c.U16(); machine != 62 {
		return nil, fmt.Errorf("%w: ELF machine %d is not x86-64", ErrFormat, machine)
	}
	c.Seek(0x28)
	offset := c.U64()
	c.Seek(0x3a)
	entry, count, names := c.U16(), int(c.U16()), int(c.U16())
	if c.Err() != nil || entry != 64 || offset > uint64(len(data)) || names >= count {
		return nil, fmt.Errorf("%w: section headers of %d bytes at %#x", ErrFormat, entry, offset)
	}
	f := &elfFile{sections: make([]elfSection, 0, min(count, len(data)/64)), end: int(offset) + count*64}
	c.Seek(int(offset))
	nameOffsets := make([]uint32, 0, cap(f.sections))
	for range count {
		s, name, err := parseSection(c, data)
		if err != nil {
			return nil, err
		}
		f.sections = append(f.sections, s)
		nameOffsets = append(nameOffsets, name)
	}
	for i, at := range nameOffsets {
		f.sections[i].name = cString(f.sections[names].data, uint64(at))
	}
	return f, nil
}

// parseSection reads one Elf64_Shdr.
func parseSection(c *bin.Cursor, data []byte) (s elfSection, name uint32, err error) {
	name = c.U32()                    // 0x00
	s.kind = c.U32()                  // 0x04
	s.flags = c.U64()                 // 0x08
	s.addr = c.U64()                  // 0x10
	offset := c.U64()                 // 0x18
	s.size = c.U64()                  // 0x20
	s.link, s.info = c.U32(), c.U32() // 0x28, 0x2c
	s.align = c.U64()                 // 0x30
	c.U64()                           // 0x38 sh_entsize
	if c.Err() != nil {
		return s, 0, fmt.Errorf("%w: section headers: %w", ErrFormat, c.Err())
	}
	if s.size > maxKernelFile {
		return s, 0, fmt.Errorf("%w: section of %d bytes", ErrTooLarge, s.size)
	}
	if s.kind == shtNobits || s.kind == 0 {
		return s, name, nil
	}
	if offset > uint64(len(data)) || s.size > uint64(len(data))-offset {
		return s, 0, fmt.Errorf("%w: section at %#x of %#x bytes lies outside the file", ErrFormat, offset, s.size)
	}
	s.data = data[offset : offset+s.size : offset+s.size]
	return s, name, nil
}

// section returns the section of a name, nil if there is none.
func (f *elfFile) section(name string) *elfSection {
	for i := range f.sections {
		if f.sections[i].name == name {
			return &f.sections[i]
		}
	}
	return nil
}

// cString returns the string at an offset of a string table, empty outside it.
func cString(table []byte, at uint64) string {
	if at >= uint64(len(table)) {
		return ""
	}
	s := table[at:]
	if n := bytes.IndexByte(s, 0); n >= 0 {
		s = s[:n]
	}
	return string(s)
}
