// Package volume reads the file systems on a disk image without mounting them.
//
// [Open] lists what is on a disk: partitions, logical volumes and the file
// system in each. What no reader here understands is listed too, by name and
// with the reason why it is not measured; nothing on a disk is passed over in
// silence. A [Volume] gives its objects in inode order ([Volume.Objects]), its
// directory entries ([Volume.Names]), contents in physical order on several
// cores ([Volume.Scan]) and, for people and tools, an [io/fs.FS].
//
// The disk is never written: journals and logs are replayed into memory, so a
// snapshot of a running machine reads as its kernel would mount it. Everything
// read is hostile. Damage is an error for the object it touches and never a
// gap: an object that cannot be read is reported with its inode number and the
// error, a directory block that cannot be read with its directory.
//
// What this proves: what the disk says. What it trusts: whoever provides the
// bytes. What an attacker can still do: keep content in the guest's page cache
// that has not reached the disk yet.
package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// ErrNotMeasured is wrapped by every use of a volume that no reader reads.
var ErrNotMeasured = errors.New("not measured")

// Reader is one file system. Implementations live in the packages below this
// one; they read only, are safe for concurrent use, and start no goroutines.
type Reader interface {
	// ReadAt reads the volume with its journal replayed.
	io.ReaderAt
	// Root is the inode number of the root directory.
	Root() uint64
	// Object reads one inode. Content is valid together with the object.
	Object(inode uint64) (*filewatch.Object, filewatch.Content, error)
	// List calls fn for each entry of a directory, then returns what damaged
	// parts of it were passed over, joined. An error from fn ends it at once.
	List(inode uint64, fn func(filewatch.Name) error) error
	// Objects calls fn for every object with at least one link, in inode order.
	// A damaged inode has its number, as much of the rest as could be read,
	// and a non-nil error; damage that cannot be pinned to one inode comes
	// with inode 0. The object is fn's to keep. Objects itself fails only with
	// fn's or the context's error.
	Objects(ctx context.Context, fn ObjectFunc) error
	// Names calls fn for every entry of every directory, in no useful order. A
	// damaged directory comes as a Name with only Parent set and an error. The
	// name's bytes are valid during the call. Names itself fails only with fn's
	// or the context's error.
	Names(ctx context.Context, fn NameFunc) error
}

// ObjectFunc receives one object, or the damage met in its place.
type ObjectFunc = func(obj *filewatch.Object, content filewatch.Content, damage error) error

// NameFunc receives one directory entry, or the damage met in its place.
type NameFunc = func(name filewatch.Name, damage error) error

// Volume is one file system, or one region that holds something else, on a disk.
type Volume struct {
	// Index counts the volumes of the disk from 0, in the order they lie on it.
	Index int
	// Partition is the partition's number as the guest's kernel numbers it, 0
	// without a partition table.
	Partition int
	// Name is the partition's or logical volume's name, "" where it has none:
	// for LVM "group/volume".
	Name string
	// Offset is where the volume starts on the disk in bytes, -1 when it lies
	// in pieces. Size is its length in bytes.
	Offset, Size int64
	// Type is the file system in the spelling of blkid(8): "ext4", "xfs",
	// "vfat", "btrfs", "crypto_LUKS", "swap"...; "" when nothing was recognized.
	Type string
	// UUID and Label are the file system's own, "" where it has none. For vfat
	// UUID is the serial number, "1234-ABCD".
	UUID, Label string
	// PartUUID and PartLabel are the partition's.
	PartUUID, PartLabel string
	// NotMeasured says why the volume cannot be read; "" when it can.
	NotMeasured string
	// Cause is the error behind NotMeasured where there is one.
	Cause error
	// Replayed says what a journal or log replay did, for reports; "" for none.
	Replayed string

	reader Follower
	device *span.Device
}

// ID identifies the volume in baselines: its UUID, or its place on the disk.
func (v *Volume) ID() string {
	if v.UUID != "" {
		return v.UUID
	}
	return v.place()
}

// Objects is [Reader.Objects].
func (v *Volume) Objects(ctx context.Context, fn ObjectFunc) error {
	if v.reader == nil {
		return v.unreadable()
	}
	return v.reader.Objects(ctx, fn)
}

// Names is [Reader.Names].
func (v *Volume) Names(ctx context.Context, fn NameFunc) error {
	if v.reader == nil {
		return v.unreadable()
	}
	return v.reader.Names(ctx, fn)
}

// Object is [Reader.Object].
func (v *Volume) Object(inode uint64) (*filewatch.Object, filewatch.Content, error) {
	if v.reader == nil {
		return nil, filewatch.Content{}, v.unreadable()
	}
	return v.reader.Object(inode)
}

// Root is the inode number of the root directory.
func (v *Volume) Root() uint64 {
	if v.reader == nil {
		return 0
	}
	return v.reader.Root()
}

// Open makes a content reader for an object; see [Content].
func (v *Volume) Open(obj *filewatch.Object, content filewatch.Content) *Content {
	return &Content{dev: v.reader, size: obj.Size, where: content}
}

// FS is the volume's tree. Its paths follow [fs.ValidPath] except that elements
// may be any bytes; FileInfo.Sys is the *filewatch.Object. A volume that is
// not measured gives a file system whose every operation fails.
func (v *Volume) FS() fs.ReadLinkFS { return &tree{v: v} }

// ReadDevice fills b with the volume's own bytes at off, without its journal.
func (v *Volume) ReadDevice(b []byte, off int64) error {
	_, err := v.device.ReadAt(b, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// DiskExtents are the pieces of the disk behind a run of the volume, in order.
// Their Logical is the offset within the volume.
func (v *Volume) DiskExtents(off, length int64) []filewatch.Extent {
	return v.device.Map(off, length)
}
