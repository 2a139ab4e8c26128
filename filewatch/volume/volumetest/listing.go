package volumetest

import (
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Listing opens a disk of size bytes and fails where what is listed makes no
// sense: nothing and no damage, a volume that is neither readable nor says why,
// one that reaches beyond the disk.
func Listing(size int64) func(io.ReaderAt) error {
	return func(r io.ReaderAt) error {
		d, err := volume.Open(r, size)
		if err != nil {
			return err
		}
		if len(d.Volumes) == 0 && len(d.Damage) == 0 {
			return fmt.Errorf("no volumes and no damage")
		}
		for _, v := range d.Volumes {
			if v.Type == "" && v.NotMeasured == "" {
				return fmt.Errorf("volume %+v has neither a type nor a reason", v)
			}
			for _, e := range v.DiskExtents(0, v.Size) {
				if e.Physical >= 0 && (e.Length < 0 || e.Physical+e.Length > size) {
					return fmt.Errorf("volume %s has the extent %+v on a disk of %d bytes", v.Name, e, size)
				}
			}
		}
		return nil
	}
}
