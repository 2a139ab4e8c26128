package volume

import (
	"github.com/plumbline-sec/plumbline/filewatch/volume/ext4"
	"github.com/plumbline-sec/plumbline/filewatch/volume/vfat"
	"github.com/plumbline-sec/plumbline/filewatch/volume/xfs"
)

// mount finds out what the volume holds and opens its reader.
func (v *Volume) mount() {
	if v.NotMeasured != "" {
		return
	}
	if v.Size <= 0 {
		v.NotMeasured = "lies beyond the end of the disk"
		if v.Partition == 0 {
			v.NotMeasured = "has no bytes"
		}
		return
	}
	var err error
	v.Type, v.NotMeasured, v.UUID, err = kind(v.device, v.Size)
	if err != nil {
		v.fail(err)
		return
	}
	if v.NotMeasured != "" {
		return
	}
	switch v.Type {
	case "ext4":
		v.mountExt4()
	case "xfs":
		v.mountXFS()
	case "vfat":
		v.mountFAT()
	}
}

// fail records why the volume cannot be measured.
func (v *Volume) fail(err error) {
	v.NotMeasured, v.Cause = err.Error(), err
}

func (v *Volume) mountExt4() {
	fs, err := ext4.Open(v.device, v.Size)
	if err != nil {
		v.fail(err)
		return
	}
	v.Type, v.UUID, v.Label, v.Replayed = fs.Type, fs.UUID, fs.Label, fs.Replayed
	v.reader = fs
}

func (v *Volume) mountXFS() {
	fs, err := xfs.Open(v.device, v.Size)
	if err != nil {
		v.fail(err)
		return
	}
	v.UUID, v.Label, v.Replayed = fs.UUID, fs.Label, fs.Replayed
	v.reader = fs
}

func (v *Volume) mountFAT() {
	fs, err := vfat.Open(v.device, v.Size)
	if err != nil {
		v.fail(err)
		return
	}
	v.UUID, v.Label = fs.Serial, fs.Label
	v.reader = fs
}
