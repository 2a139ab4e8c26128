package volume

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// sectorsOf chooses between the two ways to read an MBR, which does not say how large
// the disk's sectors are: that in which something is recognized where partitions
// begin. Both is an error, and so told; sectors of 512 bytes are read then, as they are
// where nothing is recognized.
func sectorsOf(number int, s Source, t *parttab.Table, damage error) (*parttab.Table, error) {
	if t.Wide == nil || !recognized(number, s, t.Wide) {
		return t, damage
	}
	if !recognized(number, s, t) {
		return t.Wide, t.WideDamage
	}
	return t, errors.Join(damage, fmt.Errorf("%w: its MBR leads to something in sectors of 512 and of 4,096 bytes", parttab.ErrAmbiguous))
}

// recognized says that something begins where a partition of the table does. One that
// begins with the disk, as that of an isohybrid image, does so in sectors of any size and
// says nothing of them.
func recognized(number int, s Source, t *parttab.Table) bool {
	for _, p := range t.Partitions {
		if p.Offset == 0 || p.Size == 0 {
			continue
		}
		device := span.OnDisk(number, s.Disk, p.Offset, p.Size)
		head, err := headOf(device, min(firstSize, p.Size))
		if err != nil {
			continue
		}
		name, _, _, err := kind(device, p.Size)
		if err == nil && name != "" && !byChance(name, head) {
			return true
		}
	}
	return false
}
