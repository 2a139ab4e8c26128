// Package disk opens a machine's disks for reading: image files and block
// devices directly, other formats and the disks of running machines through
// QEMU over NBD, or from the image where QEMU says that they are the same there.
// Nothing here writes to a disk.
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
	if m, ok := d.ReaderAt.(interface{ ReadMany([][]byte, []int64) error }); ok {
		return m.ReadMany(bufs, offs)
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

// ErrTwice: one image is two disks, or below another, and its files would be there
// twice.
var ErrTwice = errors.New("the same disk is there twice")

// OpenImages opens image files and block devices as the disks of one machine. An
// image that refers to others is refused.
func OpenImages(ctx context.Context, paths []string) (*Set, error) {
	var chains []Chain
	for _, path := range paths {
		c, _, err := Below{}.Chain(path)
		if err != nil {
			return nil, err
		}
		chains = append(chains, c)
	}
	return OpenChains(ctx, chains)
}

// OpenChains opens images, each with what is below it, as the disks of one machine.
func OpenChains(ctx context.Context, chains []Chain) (*Set, error) {
	if err := different(chains); err != nil {
		return nil, err
	}
	s := &Set{}
	for _, c := range chains {
		if err := s.openImage(ctx, c); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// different refuses a disk that is another one, or below another one.
func different(chains []Chain) error {
	for i, c := range chains {
		top, err := os.Stat(c[0].file)
		if err != nil {
			return fmt.Errorf("open disk: %w", err)
		}
		for j, other := range chains {
			for _, l := range other {
				if info, err := os.Stat(l.file); i != j && err == nil && os.SameFile(info, top) {
					return fmt.Errorf("open disk %s: %w", c[0].Path, ErrTwice)
				}
			}
		}
	}
	return nil
}

func (s *Set) openImage(ctx context.Context, c Chain) error {
	if c[0].Format != "raw" {
		if _, err := s.openChain(ctx, c, nil); err != nil {
			return fmt.Errorf("open disk %s (%s): %w", c[0].Path, c[0].Format, err)
		}
		return nil
	}
	f, err := os.Open(c[0].file)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	s.closers = append(s.closers, f.Close)
	size, err := f.Seek(0, io.SeekEnd) // a block device's Stat has no size
	if err != nil {
		return fmt.Errorf("size of disk: %w", err)
	}
	s.Disks = append(s.Disks, &Disk{&image{File: f}, c[0].Path, size})
	return nil
}

// Unchanged has the set say that no disk changed: the caller knows it from
// elsewhere.
func (s *Set) Unchanged() {
	s.Changed = map[int][]filewatch.Extent{}
	for i := range s.Disks {
		s.Changed[i] = nil
	}
}
