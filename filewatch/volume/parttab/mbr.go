package parttab

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxLogical bounds the chain of extended boot records, as Linux does.
const maxLogical = 255

type mbrEntry struct {
	kind         byte
	first, count int64
}

// readMBR reads the four primary entries and the logical partitions, laid out in sectors
// of a size. The boot sector of a file system is no table as a rule: where one has
// entries that make sense, Linux goes by them (block/partitions/msdos.c, 6.12).
func readMBR(r io.ReaderAt, size int64, boot []byte, sector int64) (*Table, error) {
	if boot[510] != 0x55 || boot[511] != 0xAA {
		return &Table{}, nil
	}
	entries, ok := mbrEntries(boot)
	if !ok {
		return &Table{}, nil
	}
	id := binary.LittleEndian.Uint32(boot[440:])
	t := &Table{Kind: MBR, SectorSize: sector, ID: fmt.Sprintf("%08x", id)}
	var errs error
	for i, e := range entries {
		switch {
		case e.kind == 0 || e.count == 0:
		case extended(e.kind):
			if err := t.logical(r, size, e); err != nil {
				errs = err
			}
		default:
			t.addMBR(e, i+1, 0, size)
		}
	}
	if errs == nil && (len(t.Partitions) == 0 || wholeDisk(t, boot)) {
		return &Table{}, nil
	}
	return t, errs
}

// wholeDisk says that the table is one that mkfs.fat --mbr puts into the boot sector of
// a file system over the whole disk, for Windows: its one partition begins with the disk.
func wholeDisk(t *Table, boot []byte) bool {
	return len(t.Partitions) == 1 && t.Partitions[0].Offset == 0 && t.Partitions[0].Size > 0 && (boot[0] == 0xEB || boot[0] == 0xE9)
}

// mbrEntries decodes the table at 0x1BE; false when it cannot be one.
func mbrEntries(b []byte) ([4]mbrEntry, bool) {
	var out [4]mbrEntry
	for i := range out {
		e := b[446+16*i:]
		if e[0] != 0 && e[0] != 0x80 {
			return out, false
		}
		out[i] = mbrEntry{
			kind:  e[4],
			first: int64(binary.LittleEndian.Uint32(e[8:])),
			count: int64(binary.LittleEndian.Uint32(e[12:])),
		}
	}
	return out, true
}

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }

// logical follows the chain of extended boot records. Each holds one partition,
// relative to itself, and a link, relative to the whole extended partition.
func (t *Table) logical(r io.ReaderAt, size int64, ext mbrEntry) error {
	at, number := ext.first, 5
	b := make([]byte, 512)
	seen := map[int64]bool{}
	for number < 5+maxLogical && len(seen) < maxLogical {
		if seen[at] {
			return fmt.Errorf("extended boot records go in a circle at sector %d: %w", at, ErrCorrupt)
		}
		seen[at] = true
		if at < 0 || at >= size/t.SectorSize {
			return fmt.Errorf("logical partition %d at sector %d of %d: %w", number, at, size/t.SectorSize, ErrCorrupt)
		}
		if _, err := r.ReadAt(b, at*t.SectorSize); err != nil {
			return fmt.Errorf("read extended boot record at sector %d: %w", at, err)
		}
		if b[510] != 0x55 || b[511] != 0xAA {
			return fmt.Errorf("extended boot record at sector %d has no signature: %w", at, ErrCorrupt)
		}
		entries, _ := mbrEntries(b)
		next := int64(-1)
		for _, e := range entries {
			switch {
			case e.kind == 0 || e.count == 0:
			case extended(e.kind):
				if next < 0 {
					next = ext.first + e.first
				}
			default:
				t.addMBR(e, number, at, size)
				number++
			}
		}
		if next < 0 {
			return nil
		}
		at = next
	}
	return fmt.Errorf("more than %d logical partitions: %w", maxLogical, ErrCorrupt)
}

func (t *Table) addMBR(e mbrEntry, number int, base, size int64) {
	p := Partition{Number: number, Type: fmt.Sprintf("0x%02x", e.kind), UUID: fmt.Sprintf("%s-%02x", t.ID, number)}
	off, length := (base+e.first)*t.SectorSize, e.count*t.SectorSize
	if off < size {
		p.Offset, p.Size = off, min(length, size-off)
	}
	t.cut = t.cut || off >= size || off+length > size
	t.Partitions = append(t.Partitions, p)
}
