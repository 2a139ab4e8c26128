// Package parttab reads partition tables: GPT (UEFI specification 2.10,
// section 5.3) and MBR with logical partitions (the same, section 5.2.1, and
// the chain of extended boot records as Linux follows it). Others that Linux goes by
// are recognized and named.
package parttab

import (
	"errors"
	"fmt"
	"io"
)

// Kind is the family of a table.
type Kind string

// The tables read here. None is a disk that has none.
const (
	GPT  Kind = "gpt"
	MBR  Kind = "mbr"
	None Kind = ""
)

// Table is the partitions of a disk in the order of the table.
type Table struct {
	Kind       Kind
	ID         string
	SectorSize int64
	Partitions []Partition
	// Wide is an MBR as one laid out in sectors of 4,096 bytes, nil where that does not
	// fit on the disk: nothing in it says which is meant. WideDamage is what Read would
	// say of it.
	Wide       *Table
	WideDamage error
	cut        bool // a partition does not fit on the disk
}

// Partition is one entry; offsets and lengths are in bytes.
type Partition struct {
	// Number is the guest kernel's: vda1 is 1, logical partitions start at 5.
	Number int
	// Offset and Size are in bytes of the disk; Size is cut at its end.
	Offset, Size int64
	// Type is the type GUID in lower case, or "0x83".
	Type string
	// UUID is the partition's own; for MBR as Linux makes it: "deadbeef-01".
	UUID string
	// Name is the partition's label; MBR has none.
	Name string
}

// ErrCorrupt marks a table that contradicts itself.
var ErrCorrupt = errors.New("partition table corrupt")

// ErrAmbiguous marks a disk with a second table that its guest may go by.
var ErrAmbiguous = errors.New("the disk has a second partition table")

// Read finds the partition table that Linux goes by. A disk without one gives a
// Table of kind [None] and no error. A damaged table comes with its readable
// partitions and an error; so does one beside which there is another: a guest can
// write that, to show other partitions than it uses.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	boot := make([]byte, 512)
	if size < 512 {
		return &Table{}, nil
	}
	if _, err := r.ReadAt(boot, 0); err != nil {
		return nil, fmt.Errorf("read first sector: %w", err)
	}
	if protective(boot) {
		if t, err := announcedGPT(r, size); t != nil || err != nil {
			return t, err
		}
		return legacy(r, size, boot)
	}
	t, err := legacy(r, size, boot)
	if stray := strayGPT(r, size); stray != nil {
		err, t.WideDamage = errors.Join(err, stray), errors.Join(t.WideDamage, stray)
	}
	return t, err
}

// legacy is what a disk without a GPT has.
func legacy(r io.ReaderAt, size int64, boot []byte) (*Table, error) {
	t, err := readMBR(r, size, boot, 512)
	err = errors.Join(err, foreign(r, size, boot, t))
	if wide, damage := readMBR(r, size, boot, 4096); damage == nil && wide.Kind == MBR && !wide.cut {
		t.Wide, t.WideDamage = wide, foreign(r, size, boot, wide)
	}
	return t, err
}
