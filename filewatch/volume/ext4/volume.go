// Package ext4 reads ext2, ext3 and ext4 file systems.
//
// Layout: Linux Documentation/filesystems/ext4 (6.12) and fs/ext4/ext4.h,
// fs/jbd2/; the fields of every structure are cited by offset. Everything is
// little-endian but the journal, which is big-endian.
package ext4

import (
	"context"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Volume is one file system. It satisfies volume.Reader and is safe for
// concurrent use.
type Volume struct {
	// Type is "ext2", "ext3" or "ext4", as blkid(8) tells them apart.
	Type string
	// UUID and Label are those of the superblock.
	UUID, Label string
	// Replayed says in words what the journal held, "" when it was clean.
	Replayed string
}

// Open reads the superblock and the group descriptors and replays the journal
// into memory. The volume is not written.
func Open(r io.ReaderAt, size int64) (*Volume, error) {
	return nil, filewatch.ErrNotSupported
}

// ReadAt reads the volume with its journal replayed.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) { return 0, filewatch.ErrNotSupported }

// Root is the inode number of the root directory.
func (v *Volume) Root() uint64 { return 2 }

// Object reads one inode.
func (v *Volume) Object(inode uint64) (*filewatch.Object, filewatch.Content, error) {
	return nil, filewatch.Content{}, filewatch.ErrNotSupported
}

// List calls fn for each entry of a directory.
func (v *Volume) List(inode uint64, fn func(filewatch.Name) error) error {
	return filewatch.ErrNotSupported
}

// Objects calls fn for every object with at least one link, in inode order.
func (v *Volume) Objects(ctx context.Context, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	return filewatch.ErrNotSupported
}

// Names calls fn for every entry of every directory, by place on the disk.
func (v *Volume) Names(ctx context.Context, fn func(filewatch.Name, error) error) error {
	return filewatch.ErrNotSupported
}
