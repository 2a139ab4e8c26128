package volume

import (
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// Disk is what [Open] found.
type Disk struct {
	// Table is the family of the partition table; parttab.None without one.
	Table parttab.Kind
	// ID is the disk's identity in its partition table.
	ID string
	// Volumes is everything on the disk in disk order, then logical volumes.
	Volumes []*Volume
	// Damage is what is wrong with the partition table or with volume groups.
	// The volumes that could be found are listed nevertheless.
	Damage []error
}

// Sparse is implemented by disks that know their holes; sparse areas are then
// never read. NextData gives the first offset at or after off that may hold
// data, and io.EOF when everything from off on reads as zeros.
type Sparse = span.Sparse

// Source is one disk of several.
type Source struct {
	Name string
	Disk io.ReaderAt
	Size int64
}

// Open finds the volumes of one disk of size bytes. It fails only when the disk
// cannot be read at all; volumes that nobody here reads are listed with their
// reason. Reads of r may be concurrent.
func Open(r io.ReaderAt, size int64) (*Disk, error) {
	return OpenAll([]Source{{Disk: r, Size: size}})
}

// OpenAll is [Open] for a machine's disks together: volume groups may span them.
// Table and ID are those of the first. Offsets of a volume count within its
// own disk.
func OpenAll(sources []Source) (*Disk, error) {
	d := &Disk{}
	var groups lvmGroups
	var covering []*Volume
	for i, s := range sources {
		t, err := parttab.Read(s.Disk, s.Size)
		if t == nil {
			return nil, fmt.Errorf("disk %s: %w", s.Name, err)
		}
		t, err = sectorsOf(i, s, t, err)
		if err != nil {
			d.Damage = append(d.Damage, fmt.Errorf("disk %s: %w", s.Name, err))
		}
		if i == 0 {
			d.Table, d.ID = t.Kind, t.ID
		}
		for _, v := range regions(i, s, t) {
			if groups.take(v) {
				continue
			}
			d.add(v)
		}
		if v := beside(i, s, t); v != nil {
			covering = append(covering, v)
		}
	}
	found, damage := groups.volumes()
	d.Damage = append(d.Damage, damage...)
	for _, v := range append(found, covering...) {
		d.add(v)
	}
	d.Damage = append(d.Damage, twins(d.Volumes)...)
	d.Damage = append(d.Damage, seconds(d.Volumes)...)
	return d, nil
}

func (d *Disk) add(v *Volume) {
	v.Index = len(d.Volumes)
	v.mount()
	d.Volumes = append(d.Volumes, v)
}

// regions are the partitions of a disk, or the whole disk.
func regions(number int, s Source, t *parttab.Table) []*Volume {
	if len(t.Partitions) == 0 {
		return []*Volume{{Size: s.Size, device: span.OnDisk(number, s.Disk, 0, s.Size)}}
	}
	var out []*Volume
	for _, p := range t.Partitions {
		out = append(out, &Volume{
			Partition: p.Number, Name: p.Name, Offset: p.Offset, Size: p.Size,
			PartUUID: p.UUID, PartLabel: p.Name,
			device: span.OnDisk(number, s.Disk, p.Offset, p.Size),
		})
	}
	return out
}

func (v *Volume) unreadable() error {
	if v.Cause != nil {
		return fmt.Errorf("%s: %w: %w", v.place(), ErrNotMeasured, v.Cause)
	}
	return fmt.Errorf("%s: %w: %s", v.place(), ErrNotMeasured, v.NotMeasured)
}

// place names the volume by where it is.
func (v *Volume) place() string {
	switch {
	case v.Partition > 0:
		return fmt.Sprintf("partition-%d", v.Partition)
	case v.Name != "":
		return v.Name
	}
	return fmt.Sprintf("volume-%d", v.Index)
}
