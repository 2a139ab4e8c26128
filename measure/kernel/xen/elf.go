package xen

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// file is what mkelf32 (boot/mkelf32.c) makes of Xen: one segment with
// everything, linked at its physical address, and one with the build-id.
type file struct {
	phys uint32
	data []byte // of the loaded segment
	size uint32 // of the segment in memory
	note []byte
}

// Magic numbers and offsets: System V ABI, "ELF header" and "Program header",
// 32-bit; the Multiboot Specification 0.6.96, 3.1.1.
const (
	multibootMagic = 0x1bad_b002
	multibootReach = 8192 // the header lies within the first bytes
	elfMachine386  = 3
	ptLoad         = 1
	ptNote         = 4
	maxSegments    = 16
)

// IsImage reports whether a file may be Xen's, by its first bytes: those of a
// gzip stream are unpacked as far as needed.
func IsImage(head []byte) bool {
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		r, err := gzip.NewReader(bytes.NewReader(head))
		if err != nil {
			return false
		}
		out := make([]byte, multibootReach)
		n, err := io.ReadFull(r, out)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return false
		}
		head = out[:n]
	}
	return isELF32(head) && hasMultiboot(head)
}

func isELF32(b []byte) bool { return bytes.HasPrefix(b, []byte{0x7f, 'E', 'L', 'F', 1, 1}) }

// hasMultiboot looks for a multiboot header whose checksum is right.
func hasMultiboot(b []byte) bool {
	b = b[:min(len(b), multibootReach)]
	for at := 0; at+12 <= len(b); at += 4 {
		magic, flags, sum := binary.LittleEndian.Uint32(b[at:]), binary.LittleEndian.Uint32(b[at+4:]), binary.LittleEndian.Uint32(b[at+8:])
		if magic == multibootMagic && magic+flags+sum == 0 {
			return true
		}
	}
	return false
}

// unpack returns the ELF file of a gzip stream, or what is not one as it is.
func unpack(in []byte) ([]byte, error) {
	if !bytes.HasPrefix(in, []byte{0x1f, 0x8b}) {
		return in, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(in))
	if err != nil {
		return nil, fmt.Errorf("%w: gzip: %w", ErrNotXen, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return nil, fmt.Errorf("%w: gzip: %w", ErrNotXen, err)
	}
	if len(out) > maxImage {
		return nil, fmt.Errorf("%w: over %d bytes of gzip", ErrNotXen, maxImage)
	}
	return out, nil
}

func parseFile(b []byte) (*file, error) {
	if !isELF32(b) || !hasMultiboot(b) {
		return nil, fmt.Errorf("%w: no 32-bit multiboot ELF", ErrNotXen)
	}
	c := bin.Little(b)
	c.Seek(0x12) // e_machine
	machine := c.U16()
	c.Seek(0x1c) // e_phoff
	at := c.U32()
	c.Seek(0x2a) // e_phentsize, e_phnum
	size, count := c.U16(), c.U16()
	if c.Err() != nil || machine != elfMachine386 || size != 32 || count > maxSegments {
		return nil, fmt.Errorf("%w: ELF header", ErrNotXen)
	}
	var f file
	for i := range int(count) {
		c.Seek(int(at) + i*32)
		kind, off := c.U32(), c.U32() // p_type, p_offset
		c.U32()                       // p_vaddr
		phys, inFile, inMemory := c.U32(), c.U32(), c.U32()
		if c.Err() != nil || uint64(off)+uint64(inFile) > uint64(len(b)) || inMemory < inFile || inMemory > maxImage {
			return nil, fmt.Errorf("%w: segment %d", ErrNotXen, i)
		}
		data := b[off:][:inFile:inFile]
		switch {
		case kind == ptLoad && f.data != nil:
			return nil, fmt.Errorf("%w: several segments", ErrNotXen)
		case kind == ptLoad:
			f.phys, f.data, f.size = phys, data, inMemory
		case kind == ptNote:
			f.note = data
		}
	}
	if len(f.data) == 0 || len(f.note) == 0 {
		return nil, fmt.Errorf("%w: no build-id", ErrNotXen)
	}
	return &f, nil
}
