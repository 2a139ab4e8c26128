package guest

import (
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// OnDisks finds the file systems on a machine's disks and puts them together.
func OnDisks(set *disk.Set) (*Guest, error) {
	var sources []volume.Source
	for _, d := range set.Disks {
		sources = append(sources, volume.Source{Name: d.Name, Disk: d, Size: d.Size})
	}
	volumes, err := volume.OpenAll(sources)
	if err != nil {
		return nil, err
	}
	return New(volumes)
}
