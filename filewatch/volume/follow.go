package volume

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Follower is a [Reader] that can say what reads differently since an earlier
// moment, when it is told which bytes of its device changed. All readers are.
type Follower interface {
	Reader
	// Marks is what must be kept of this moment to compare a later one with it.
	// It fails where damage keeps a comparison from being whole.
	Marks() ([]byte, error)
	// Changed compares with the moment that marks were taken of, when at most the
	// bytes in dirty, which are as [Merge] leaves them, changed on the device since.
	// blocks are the bytes of the volume, journal replayed, that may read
	// differently; inodes those whose own bytes may, sorted; renewed, sorted, those
	// that differ in ways that neither shows, such as records in a log. An error
	// says why everything may differ.
	Changed(marks []byte, dirty []filewatch.Extent) (blocks []filewatch.Extent, inodes, renewed []uint64, err error)
	// Some is Objects for the given inodes, which are sorted. Those for which skip
	// says so, by their own bytes as in filewatch.Content, are passed over.
	Some(ctx context.Context, inodes []uint64, skip func(inode uint64, raw []byte) bool, fn ObjectFunc) error
}

// Follower is the volume's reader, nil when it is not measured.
func (v *Volume) Follower() Follower { return v.reader }

// Layout is a digest of where on which of the disks given to [OpenAll] each byte of
// the volume lies. A logical volume can be put together of other places by a change
// of its group's metadata alone.
func (v *Volume) Layout() string {
	h := blake3.New()
	v.device.Layout(h)
	return hex.EncodeToString(h.Sum(nil))
}

// Runs are the places of the volume on its disks, as [filewatch.Place] has them.
func (v *Volume) Runs() []filewatch.Run { return v.device.Runs() }

// maxRuns bounds what is held of the changes of one volume.
const maxRuns = 1 << 20

// Dirty maps changed runs of the disks, by their index, to runs of the volume.
// Physical and Length of the runs count, which are sorted; the result is as [Merge]
// leaves it. An error says why everything may have changed.
func (v *Volume) Dirty(changed map[int][]filewatch.Extent) ([]filewatch.Extent, error) {
	var out []filewatch.Extent
	err := v.device.Back(changed, func(at, length int64) error {
		if len(out) >= maxRuns {
			if out = Merge(out); len(out) > maxRuns/2 {
				return fmt.Errorf("more than %d places of it changed", maxRuns/2)
			}
		}
		out = append(out, filewatch.Extent{Physical: at, Length: length})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return Merge(out), nil
}

// Merge sorts runs by Physical and joins those that overlap or touch.
func Merge(runs []filewatch.Extent) []filewatch.Extent {
	slices.SortFunc(runs, func(a, b filewatch.Extent) int { return cmp.Compare(a.Physical, b.Physical) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && r.Physical <= out[n-1].Physical+out[n-1].Length {
			out[n-1].Length = max(out[n-1].Length, r.Physical+r.Length-out[n-1].Physical)
			continue
		}
		out = append(out, filewatch.Extent{Physical: r.Physical, Length: r.Length})
	}
	return out
}

// Overlaps says whether a run of length bytes at off meets any of the runs, which
// are as [Merge] leaves them.
func Overlaps(runs []filewatch.Extent, off, length int64) bool {
	i, _ := slices.BinarySearchFunc(runs, off, func(e filewatch.Extent, at int64) int {
		return cmp.Compare(e.Physical+e.Length, at+1)
	})
	return i < len(runs) && runs[i].Physical < off+length
}

// ScanSome is [Volume.Scan] for the given objects only, which came from
// [Follower.Some] in the order of their inodes.
func (v *Volume) ScanSome(ctx context.Context, o *ScanOptions, objects []Located, visit VisitFunc) error {
	return v.scan(ctx, o, visit, func(ctx context.Context, fn ObjectFunc) error {
		for i := range objects {
			if err := fn(objects[i].Object, objects[i].Content, objects[i].Damage); err != nil {
				return err
			}
		}
		return nil
	})
}

// Located is an object with the place of its content.
type Located struct {
	Object  *filewatch.Object
	Content filewatch.Content
	Damage  error
}
