package parttab

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

const (
	// maxArray bounds the array of entries in bytes, as Linux does
	// (KMALLOC_MAX_SIZE); the specification's usual size is 16 KiB.
	maxArray = 4 << 20
	// entrySize is the only size of an entry that Linux takes.
	entrySize = 128
)

// sectorSizes are those that disks of machines have.
var sectorSizes = []int64{512, 4096}

// announcedGPT reads the table that a protective MBR announces, whatever the size
// of the disk's sectors; nil, nil where there is none.
func announcedGPT(r io.ReaderAt, size int64) (*Table, error) {
	var whole, broken *Table
	var damage error
	for _, sector := range sectorSizes {
		t, err := readGPT(r, size, sector)
		switch {
		case t == nil && err == nil:
		case err != nil:
			if broken == nil && damage == nil {
				broken, damage = t, err
			}
		case whole == nil:
			whole = t
		default:
			return whole, fmt.Errorf("%w: a GPT for sectors of %d bytes beside that for %d", ErrAmbiguous, sector, whole.SectorSize)
		}
	}
	if whole != nil {
		return whole, nil
	}
	return broken, damage
}

// strayGPT is the error of a table that no protective MBR announces: Linux passes
// it over unless its command line says "gpt".
func strayGPT(r io.ReaderAt, size int64) error {
	for _, sector := range sectorSizes {
		if t, err := readGPTAt(r, size, sector, sector); t != nil && err == nil {
			return fmt.Errorf("%w: a GPT that no protective MBR announces, which Linux does not go by", ErrAmbiguous)
		}
	}
	return nil
}

// readGPT reads the primary table at sector 1 or, where that is damaged, the
// backup in the last sector. Neither there: nil, nil.
func readGPT(r io.ReaderAt, size, sector int64) (*Table, error) {
	t, err := readGPTAt(r, size, sector, sector)
	if err == nil && t != nil {
		return t, nil
	}
	if size < 2*sector {
		return t, err
	}
	backup, berr := readGPTAt(r, size, sector, (size/sector-1)*sector)
	if backup != nil && berr == nil {
		return backup, nil
	}
	return t, err
}

// protective says whether the MBR announces a GPT as Linux has it
// (block/partitions/efi.c, is_pmbr_valid, 6.12): an entry of type 0xEE that begins
// at sector 1.
func protective(boot []byte) bool {
	if boot[510] != 0x55 || boot[511] != 0xAA {
		return false
	}
	for i := range 4 {
		e := boot[446+16*i:]
		if e[4] == 0xEE && binary.LittleEndian.Uint32(e[8:]) == 1 {
			return true
		}
	}
	return false
}

// readGPTAt reads the header at off: UEFI 2.10 table 5-5. It takes what Linux takes
// (is_gpt_valid), so that it is not led to another table than a guest.
func readGPTAt(r io.ReaderAt, size, sector, off int64) (*Table, error) {
	head := make([]byte, sector)
	if off+sector > size {
		return nil, nil
	}
	if _, err := r.ReadAt(head, off); err != nil {
		return nil, fmt.Errorf("read GPT header at %#x: %w", off, err)
	}
	if string(head[:8]) != "EFI PART" {
		return nil, nil
	}
	t := &Table{Kind: GPT, SectorSize: sector, ID: GUID(head[0x38:0x48])}
	c := bin.Little(head)
	c.Seek(0x0C)
	length := c.U32()
	sum := c.U32()
	if length < 92 || int64(length) > sector {
		return t, fmt.Errorf("GPT header of %d bytes: %w", length, ErrCorrupt)
	}
	binary.LittleEndian.PutUint32(head[0x10:], 0)
	if crc32.ChecksumIEEE(head[:length]) != sum {
		return t, fmt.Errorf("GPT header checksum: %w", ErrCorrupt)
	}
	c.Seek(0x18)
	own, _ := c.U64(), c.U64() // the other header's place
	firstUsable, lastUsable := c.U64(), c.U64()
	if own != uint64(off/sector) || firstUsable > lastUsable || lastUsable >= uint64(size/sector) {
		return t, fmt.Errorf("GPT header of sector %d at sector %d, for sectors %d to %d of %d: %w", own, off/sector, firstUsable, lastUsable, size/sector, ErrCorrupt)
	}
	c.Seek(0x48)
	lba, count, each, asum := int64(c.U64()), c.U32(), c.U32(), c.U32()
	if each != entrySize || int64(count)*int64(each) > maxArray || lba < 0 || lba > size/sector {
		return t, fmt.Errorf("GPT with %d entries of %d bytes at sector %d: %w", count, each, lba, ErrCorrupt)
	}
	array := make([]byte, int64(count)*int64(each))
	if _, err := r.ReadAt(array, lba*sector); err != nil {
		return t, fmt.Errorf("read GPT entries at sector %d: %w", lba, err)
	}
	if crc32.ChecksumIEEE(array) != asum {
		return t, fmt.Errorf("GPT entries checksum: %w", ErrCorrupt)
	}
	for i := range int(count) {
		t.add(array[i*int(each):], i+1, sector, size)
	}
	return t, nil
}

// add appends one entry: UEFI 2.10 table 5-6.
func (t *Table) add(e []byte, number int, sector, size int64) {
	kind := GUID(e[0x00:0x10])
	if kind == "00000000-0000-0000-0000-000000000000" {
		return
	}
	first := binary.LittleEndian.Uint64(e[0x20:])
	last := binary.LittleEndian.Uint64(e[0x28:])
	p := Partition{Number: number, Type: kind, UUID: GUID(e[0x10:0x20]), Name: utf16Name(e[0x38:0x80])}
	if max := uint64(size / sector); first <= last && first < max {
		p.Offset = int64(first) * sector
		p.Size = int64(min(last+1, max)-first) * sector
	}
	t.Partitions = append(t.Partitions, p)
}

func utf16Name(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// GUID formats 16 bytes in the mixed order of UEFI (RFC 9562, appendix; the
// first three groups are little-endian).
func GUID(b []byte) string {
	o := [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(o[8:], b[8:16])
	s := hex.EncodeToString(o[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
