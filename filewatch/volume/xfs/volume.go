// Package xfs reads XFS file systems of version 4 and 5.
//
// Layout: fs/xfs/libxfs/xfs_format.h, xfs_da_format.h and xfs_log_format.h of
// Linux 6.12; offsets are cited at each use. Everything is big-endian but
// checksums and the contents of the log.
//
// The log is replayed into memory. What version 5 checksums cover is verified;
// file content has none.
package xfs

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Volume is one file system. It satisfies volume.Reader and is safe for
// concurrent use.
type Volume struct {
	// Type is "xfs".
	Type string
	// UUID and Label are those of the superblock.
	UUID, Label string
	// Replayed says in words what the log held, "" when it was clean.
	Replayed string

	s       *super
	dev     *overlay
	pending intents
	damage  []error
	moment  func() (*marks, error) // see Marks
}

// intents are changes that the log announces and that no transaction finished.
type intents struct {
	// maps are changes of block maps that recovery would make.
	maps map[uint64][]filewatch.Extent
	// unfinished are inodes with changes that cannot be made here.
	unfinished map[uint64]error
}

// Open reads the superblock and replays the log into memory. The volume of size
// bytes is not written.
func Open(r io.ReaderAt, size int64) (*Volume, error) {
	v, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("xfs: %w", err)
	}
	return v, nil
}

func open(r io.ReaderAt, size int64) (*Volume, error) {
	dev := newOverlay(r)
	s, err := readSuper(dev, size)
	if err != nil {
		return nil, err
	}
	v := &Volume{Type: "xfs", s: s, dev: dev}
	v.UUID, v.Label = s.uuidString(), s.label
	v.moment = sync.OnceValues(v.marks)
	return v, v.recover(size)
}

// ReadAt reads the volume with its log replayed.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) { return v.dev.ReadAt(b, off) }

// ReadMany is ReadAt for many places at once, as span.Many has it.
func (v *Volume) ReadMany(bufs [][]byte, offs []int64) error { return v.dev.ReadMany(bufs, offs) }

// NextData gives the first offset at or after off that may hold data.
func (v *Volume) NextData(off int64) (int64, error) { return v.dev.NextData(off) }

// Root is the inode number of the root directory.
func (v *Volume) Root() uint64 { return v.s.root }

// Object reads one inode. What could be read of a damaged inode comes with the
// error; nil only when nothing could.
func (v *Volume) Object(number uint64) (*filewatch.Object, filewatch.Content, error) {
	in, err := v.readInode(number, v.newScratch())
	if in == nil {
		return nil, filewatch.Content{}, err
	}
	o, c, derr := v.describe(in)
	return o, c, errors.Join(err, derr)
}

// List calls fn for each entry of a directory, then returns the damage met.
func (v *Volume) List(number uint64, fn func(filewatch.Name) error) error {
	in, err := v.readInode(number, v.newScratch())
	if err != nil {
		return err
	}
	_, c, err := v.describe(in)
	if lerr := v.list(in, c, fn); lerr != nil {
		return lerr
	}
	return err
}
