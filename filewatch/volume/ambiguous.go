package volume

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// beside is what lies over a whole disk that also has partitions, nil for nothing:
// file systems and partition tables leave each other's places alone, so a guest can
// use the one and show the other. Swap space holds no files.
func beside(number int, s Source, t *parttab.Table) *Volume {
	atStart := func(p parttab.Partition) bool { return p.Offset == 0 && p.Size > 0 }
	if len(t.Partitions) == 0 || slices.ContainsFunc(t.Partitions, atStart) {
		return nil
	}
	device := span.OnDisk(number, s.Disk, 0, s.Size)
	head, err := headOf(device, min(firstSize, s.Size))
	if err != nil {
		return nil // and so is reading partitions
	}
	name, _, _, err := kind(device, s.Size)
	if err != nil || name == "" || name == "swap" || name == "swsuspend" {
		return nil
	}
	if byChance(name, head) {
		return nil
	}
	return &Volume{Size: s.Size, device: device, Type: name,
		NotMeasured: "lies over the whole disk, which also has partitions: which of them the guest uses cannot be told"}
}

// byChance says of what was recognized in a device that begins with head that something
// else may lie there: two bytes are met by chance, as in a boot loader before the first
// partition.
func byChance(name string, head []byte) bool {
	i := slices.IndexFunc(signatures, func(s signature) bool { return s.kind == name })
	return i >= 0 && len(signatures[i].magic) < 4 && !(name == "ext4" && superblockIn(head))
}

// superblockIn says whether a device that begins so has an ext2, ext3 or ext4
// superblock that a kernel would not refuse at first sight (fs/ext4/super.c, 6.12),
// read here or not.
func superblockIn(head []byte) bool {
	if len(head) < 2048 {
		return false
	}
	b := head[1024:]
	word := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	return binary.LittleEndian.Uint16(b[0x38:]) == 0xEF53 && word(0x18) <= 6 && word(0x4C) <= 1 &&
		word(0x14) <= 1 && word(0x00) > 0 && word(0x04) > 0 && word(0x20) > 0 && word(0x28) > 0
}

// twins are the errors of volumes that have another's UUID: objects, fstab and what
// is kept of a scan know a volume by it.
func twins(volumes []*Volume) (damage []error) {
	first := map[string]*Volume{}
	for _, v := range volumes {
		if v.UUID == "" || v.NotMeasured != "" {
			continue
		}
		if other := first[v.UUID]; other != nil {
			damage = append(damage, fmt.Errorf("%s has the UUID of %s, %s: which of them the guest uses, and what is whose, cannot be told", v.place(), other.place(), v.UUID))
			continue
		}
		first[v.UUID] = v
	}
	return damage
}
