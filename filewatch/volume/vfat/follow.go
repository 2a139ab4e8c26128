package vfat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// ErrReshaped says that the boot sector places things elsewhere.
var ErrReshaped = errors.New("boot sector changed")

// maxObjects bounds what is held of the objects of one volume: 16 MiB.
const maxObjects = 1 << 21

// moment are the objects that there are, by inode, but for the root.
type moment struct {
	shape  [32]byte
	places []uint64
}

// gather walks all directories. One that cannot be read whole is an error: nobody
// knows then what there is.
func (v *Volume) gather() (*moment, error) {
	shape := fmt.Appendf(nil, "%d %d %d %d %d %d %d %d %d %d", v.size, v.bits, v.cluster, v.fat, v.fatSize, v.root, v.rootSize, v.rootCluster, v.data, v.clusters)
	m := &moment{shape: blake3.Sum256(shape)}
	err := v.walk(context.Background(), func(_ uint64, s slot) error {
		if len(m.places) == maxObjects {
			return fmt.Errorf("more than %d objects: %w", maxObjects, filewatch.ErrNotSupported)
		}
		m.places = append(m.places, s.inode)
		return nil
	}, func(_ uint64, err error) error { return err })
	if err != nil {
		return nil, err
	}
	slices.Sort(m.places)
	m.places = slices.Compact(m.places)
	return m, nil
}

// Marks implements volume.Follower: 32 bytes of shape, then each inode as a distance
// from the one before (uvarint).
func (v *Volume) Marks() ([]byte, error) {
	m, err := v.now()
	if err != nil {
		return nil, err
	}
	return m.append(nil), nil
}

func (m *moment) append(b []byte) []byte {
	b = append(b, m.shape[:]...)
	last := uint64(0)
	for _, n := range m.places {
		b = binary.AppendUvarint(b, n-last)
		last = n
	}
	return b
}

func parseMarks(b []byte) (*moment, error) {
	c := bin.Little(b)
	m := &moment{}
	copy(m.shape[:], c.Bytes(len(m.shape)))
	bad := fmt.Errorf("marks of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	if c.Err() != nil {
		return nil, bad
	}
	last := uint64(0)
	for b = b[len(m.shape):]; len(b) > 0; {
		step, n := binary.Uvarint(b)
		if n <= 0 || step == 0 || step > 1<<62-last {
			return nil, bad
		}
		last += step
		m.places = append(m.places, last)
		b = b[n:]
	}
	return m, nil
}

// Changed implements volume.Follower. An entry of a directory does not tell where its
// clusters are: those stand in the allocation table. So all objects that there are or
// were are candidates, the table and the directories being small; what is told apart
// are the owners of what was written.
func (v *Volume) Changed(old []byte, dirty []filewatch.Extent) (blocks []filewatch.Extent, inodes, renewed []uint64, err error) {
	was, err := parseMarks(old)
	if err != nil {
		return nil, nil, nil, err
	}
	now, err := v.now()
	if err != nil {
		return nil, nil, nil, err
	}
	if was.shape != now.shape {
		return nil, nil, nil, ErrReshaped
	}
	inodes = slices.Concat([]uint64{rootInode}, was.places, now.places)
	slices.Sort(inodes)
	return dirty, slices.Compact(inodes), nil, nil
}

// Some implements volume.Follower. Nothing is passed over: see Changed.
func (v *Volume) Some(ctx context.Context, inodes []uint64, _ func(inode uint64, raw []byte) bool, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	m, err := v.now()
	if err != nil {
		return err
	}
	var places []uint64
	for _, n := range inodes {
		if n == rootInode {
			o, c, err := v.rootObject()
			if err := fn(o, c, err); err != nil {
				return err
			}
		} else if _, there := slices.BinarySearch(m.places, n); there {
			places = append(places, n)
		}
	}
	return v.visit(ctx, places, nil, fn)
}
