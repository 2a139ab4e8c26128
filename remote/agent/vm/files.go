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

// OpenFiles finds the file systems on a place's images, or on the disks of the
// running machine where it names none. The caller closes them. Errors wrap
// guest.ErrNoFileSystem when there is nothing that can be read.
func OpenFiles(ctx context.Context, p *Place) (*Files, error) {
	set, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	g, err := guest.OnDisks(set)
	if err != nil {
		set.Close()
		return nil, err
	}
	return &Files{g, p.Name, set}, nil
}

func (p *Place) open(ctx context.Context) (*disk.Set, error) {
	if len(p.Images) == 0 {
		return p.machine().Open(ctx)
	}
	chains, _, err := p.chains()
	if err != nil {
		return nil, err
	}
	return disk.OpenChains(ctx, chains)
}

// Machine implements baseline.Source.
func (f *Files) Machine() filewatch.Machine {
	m := f.Guest.Machine()
	m.Name = f.name
	return m
}

// Close lets go of the disks.
func (f *Files) Close() error { return f.set.Close() }
