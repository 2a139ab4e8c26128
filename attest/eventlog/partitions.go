package eventlog

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Partition is an entry of a measured partition table.
type Partition struct {
	Type, ID  GUID
	Name      string
	First     uint64 // LBA
	Last      uint64 // LBA, included
	TypeWords string // what the type is for, or empty
}

// maxPartitions bounds a GPT; the usual table has 128 slots.
const maxPartitions = 1024

// Partitions reads the partition table of an EV_EFI_GPT_EVENT (UEFI_GPT_DATA,
// PFP 10.4.6) and the disk's GUID. Errors wrap [ErrFormat].
func (e *Event) Partitions() (disk GUID, partitions []Partition, err error) {
	c := bin.Little(e.Data)
	header := bin.Little(c.Bytes(92)) // EFI_PARTITION_TABLE_HEADER, UEFI 2.10, 5.3.2
	header.Skip(56)
	disk = readGUID(header)
	header.Skip(12)
	size := int(header.U32())
	count := c.U64()
	if err := c.Err(); err != nil {
		return disk, nil, fmt.Errorf("%w: partition table: %w", ErrFormat, err)
	}
	if size < 128 || count > maxPartitions {
		return disk, nil, fmt.Errorf("%w: partition table with %d entries of %d bytes", ErrFormat, count, size)
	}
	for range count {
		raw := c.Bytes(size)
		if err := c.Err(); err != nil {
			return disk, nil, fmt.Errorf("%w: partition table: %w", ErrFormat, err)
		}
		entry := bin.Little(raw) // UEFI 2.10, 5.3.3
		p := Partition{Type: readGUID(entry), ID: readGUID(entry), First: entry.U64(), Last: entry.U64()}
		entry.Skip(8)
		p.Name = decodeUTF16(entry.Bytes(72))
		p.TypeWords = partitionWords[p.Type.String()]
		partitions = append(partitions, p)
	}
	return disk, partitions, nil
}

var partitionWords = map[string]string{
	guidEFISystem:        "EFI system",
	guidLinuxData:        "Linux data",
	guidLinuxRootX86:     "Linux root (x86-64)",
	guidMicrosoftBasic:   "basic data",
	guidBIOSBootOrLegacy: "BIOS boot",
}
