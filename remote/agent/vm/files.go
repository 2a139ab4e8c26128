package vm

import (
	"context"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
)

// Files are a machine's files as its disks hold them. It implements
// baseline.Source.
type Files struct {
	*guest.Guest
	name string
	set  *disk.Set
}

// OpenFiles finds the file systems on disk images, or on the disks of the running
// machine behind a QMP socket where no image is named. The caller closes them.
// Errors wrap guest.ErrNoFileSystem when there is nothing that can be read.
func OpenFiles(ctx context.Context, name, qmp string, images []string) (*Files, error) {
	var set *disk.Set
	var err error
	if len(images) > 0 {
		set, err = disk.OpenImages(ctx, images)
	} else {
		set, err = disk.OpenVM(ctx, qmp)
	}
	if err != nil {
		return nil, err
	}
	g, err := guestOf(set)
	if err != nil {
		set.Close()
		return nil, err
	}
	return &Files{g, name, set}, nil
}

// Machine implements baseline.Source.
func (f *Files) Machine() filewatch.Machine {
	m := f.Guest.Machine()
	m.Name = f.name
	return m
}

// Close lets go of the disks.
func (f *Files) Close() error { return f.set.Close() }
