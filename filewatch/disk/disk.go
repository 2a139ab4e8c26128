// Package disk opens a machine's disks for reading: image files and block
// devices directly, other formats and the disks of running machines through
// QEMU over NBD. Nothing here writes to a disk.
package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
)

// ErrNotSupported: the disk is in a form that cannot be read here.
var ErrNotSupported = errors.New("not supported")

// Disk is one disk of Size bytes.
type Disk struct {
	io.ReaderAt
	Name string
	Size int64
}

// NextData gives the first offset at or after off that may hold data, io.EOF when
// the rest reads as zeros: readers of volumes leave holes alone by it
// (filewatch/volume/span). Where nobody tells, everything may hold data.
func (d *Disk) NextData(off int64) (int64, error) {
	if s, ok := d.ReaderAt.(interface{ NextData(int64) (int64, error) }); ok {
		return s.NextData(off)
	}
	return off, nil
}

// ReadMany fills each of bufs from the offset beside it, at once where that saves
// waiting. After an error any of bufs may hold anything.
func (d *Disk) ReadMany(bufs [][]byte, offs []int64) error {
	if c, ok := d.ReaderAt.(*nbd.Client); ok {
		return c.ReadMany(bufs, offs)
	}
	for i, b := range bufs {
		if n, err := d.ReadAt(b, offs[i]); n < len(b) {
			return cmp.Or(err, io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// Set is the disks of one machine.
type Set struct {
	Disks []*Disk
	// Changed are, by the index of the disk, the runs of bytes that may differ
	// from what Lost or the caller's Track is about, sorted by Physical. nil where
	// that is not known.
	Changed map[int][]filewatch.Extent
	// Lost says why Changed is nil in a set that was asked for it.
	Lost string
	// Same says that nothing at all was written since the scan that the caller's
	// Track is of: there are no Disks to read then, and Track is the caller's.
	Same bool
	// Track is what the next scan needs to know what changed since this one.
	Track Track

	tracking *tracking
	closers  []func() error
	// takeDown, if not nil, takes the snapshot away and, once its argument is
	// closed, what no later scan builds on.
	takeDown func(decided <-chan struct{}) error
	released *released
}

// released is a snapshot that is taken away meanwhile.
type released struct {
	decided chan struct{}
	done    chan error
}

// Release says that nothing is read any more: what QEMU made for a snapshot goes
// while what was read is worked on. Which bitmap goes on is for [Set.Close] to say.
func (s *Set) Release() {
	if s.takeDown == nil || s.released != nil {
		return
	}
	r := &released{make(chan struct{}), make(chan error, 1)}
	s.released = r
	go func() { r.done <- s.takeDown(r.decided) }()
}

// Released says that the disks can no longer be read.
func (s *Set) Released() bool { return s.released != nil }

// Close ends everything that was opened or started for the disks, last first.
func (s *Set) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// ErrTwice: one image is named as two disks, whose files would all be there twice.
var ErrTwice = errors.New("the same disk is named twice")

// OpenImages opens image files and block devices as the disks of one machine.
func OpenImages(ctx context.Context, paths []string) (*Set, error) {
	if err := different(paths); err != nil {
		return nil, err
	}
	s := &Set{}
	for _, path := range paths {
		if err := s.openImage(ctx, path); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// different refuses two names of one file. What cannot be looked at is for
// openImage to complain about.
func different(paths []string) error {
	var seen []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			return fmt.Errorf("open disk %s: %w", path, ErrTwice)
		}
		seen = append(seen, info)
	}
	return nil
}

func (s *Set) openImage(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	s.closers = append(s.closers, f.Close)
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	if info.IsDir() {
		return fmt.Errorf("open disk %s: is a directory", path)
	}
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("read disk: %w", err)
	}
	if format := formatOf(head[:n]); format != "raw" {
		return s.openForeign(ctx, path, format, head[:n])
	}
	size, err := f.Seek(0, io.SeekEnd) // a block device's Stat has no size
	if err != nil {
		return fmt.Errorf("size of disk: %w", err)
	}
	s.Disks = append(s.Disks, &Disk{&image{f}, path, size})
	return nil
}

// formatOf knows image formats by their first bytes; what has none is raw.
func formatOf(head []byte) string {
	for _, f := range []struct {
		format string
		off    int
		magic  string
	}{
		{"qcow2", 0, "QFI\xfb"},
		{"vmdk", 0, "KDMV"},
		{"vmdk", 0, "# Disk DescriptorFile"},
		{"vdi", 0x40, "\x7f\x10\xda\xbe"},
		{"vhdx", 0, "vhdxfile"},
		{"vpc", 0, "conectix"},
		{"qed", 0, "QED\x00"},
	} {
		if len(head) >= f.off+len(f.magic) && string(head[f.off:f.off+len(f.magic)]) == f.magic {
			return f.format
		}
	}
	return "raw"
}

// Unchanged has the set say that no disk changed: the caller knows it from
// elsewhere.
func (s *Set) Unchanged() {
	s.Changed = map[int][]filewatch.Extent{}
	for i := range s.Disks {
		s.Changed[i] = nil
	}
}
