package xfs

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// marks is what of one moment decides how the device's bytes read: the layout,
// which inodes there are, and what the log lays over the device.
type marks struct {
	shape   [32]byte
	chunks  []chunk      // sorted by inode, and so by place
	sectors []sectorMark // that the log replaces, sorted
	inodes  []uint64     // with changes that no sector shows, sorted
}

// sectorMark is a sector with a digest of what the log makes of it. How the log
// comes to that, by parts of it over the device's own bytes or not because those
// are newer, does not matter.
type sectorMark struct {
	number int64
	sum    [16]byte
}

// maxChunks bounds what is held of the inode trees: 134 million inodes, 48 MiB.
const maxChunks = 1 << 21

func (v *Volume) marks() (*marks, error) {
	if len(v.damage) > 0 {
		return nil, v.damage[0]
	}
	s := *v.s
	// The other bits change nothing of how a volume reads here, and a running kernel
	// sets one of them with the first attribute of a file.
	s.version &= versionMask | versionDir2 | versionMore
	s.features2 &= version2Ft
	m := &marks{shape: blake3.Sum256(fmt.Appendf(nil, "%+v", s))}
	w := treeWalk{v: v, ctx: context.Background(), fn: func(c chunk) error { return m.add(v, c) }, lost: func(ag uint32, err error) error {
		return fmt.Errorf("inodes of group %d: %w", ag, err)
	}}
	if err := w.groups(); err != nil {
		return nil, err
	}
	for _, n := range v.dev.order {
		sum := blake3.Sum256(v.dev.sectors[n][:])
		m.sectors = append(m.sectors, sectorMark{n, [16]byte(sum[:])})
	}
	m.inodes = slices.Collect(maps.Keys(v.pending.maps))
	m.inodes = append(m.inodes, slices.Collect(maps.Keys(v.pending.unfinished))...)
	slices.Sort(m.inodes)
	m.inodes = slices.Compact(m.inodes)
	return m, nil
}

// add takes the next chunk of the trees, which must be where its number says.
func (m *marks) add(v *Volume, c chunk) error {
	if n := len(m.chunks); n > 0 && c.first < m.chunks[n-1].first+chunkInodes {
		return fmt.Errorf("inodes from %d on come after %d: %w", c.first, m.chunks[n-1].first, filewatch.ErrCorrupt)
	}
	if v.s.groupOf(c.first) != v.s.groupOf(c.first+chunkInodes-1) {
		return fmt.Errorf("inodes from %d on are in two groups: %w", c.first, filewatch.ErrCorrupt)
	}
	if len(m.chunks) == maxChunks {
		return fmt.Errorf("more than %d chunks of inodes: %w", maxChunks, filewatch.ErrNotSupported)
	}
	m.chunks = append(m.chunks, c)
	return c.runs(func(from, count uint64) error {
		if _, err := v.s.inodeAt(c.first + from); err != nil {
			return err
		}
		_, err := v.s.inodeAt(c.first + from + count - 1)
		return err
	})
}

// find is the index of the chunk of an inode, false when there is none.
func (m *marks) find(inode uint64) (int, bool) {
	return slices.BinarySearchFunc(m.chunks, inode, func(c chunk, n uint64) int {
		if c.first <= n && n-c.first < chunkInodes {
			return 0
		}
		return cmp.Compare(c.first, n)
	})
}

// Marks implements volume.Follower. The form is little-endian: 32 bytes of shape;
// then three lists, each with its length (4 bytes) before it: chunks (first inode
// 8, holes 2, free 8), replaced sectors (number 8, digest 16), inodes (8).
func (v *Volume) Marks() ([]byte, error) {
	m, err := v.moment()
	if err != nil {
		return nil, err
	}
	return m.append(nil), nil
}

func (m *marks) append(b []byte) []byte {
	b = slices.Grow(b, len(m.shape)+12+18*len(m.chunks)+24*len(m.sectors)+8*len(m.inodes))
	b = append(b, m.shape[:]...)
	b = le.AppendUint32(b, uint32(len(m.chunks)))
	for _, c := range m.chunks {
		b = le.AppendUint64(le.AppendUint16(le.AppendUint64(b, c.first), c.holes), c.free)
	}
	b = le.AppendUint32(b, uint32(len(m.sectors)))
	for _, s := range m.sectors {
		b = append(le.AppendUint64(b, uint64(s.number)), s.sum[:]...)
	}
	b = le.AppendUint32(b, uint32(len(m.inodes)))
	for _, n := range m.inodes {
		b = le.AppendUint64(b, n)
	}
	return b
}

func parseMarks(b []byte) (*marks, error) {
	c := bin.Little(b)
	m := &marks{}
	copy(m.shape[:], c.Bytes(len(m.shape)))
	for n := c.Count(18); n > 0; n-- {
		m.chunks = append(m.chunks, chunk{c.U64(), c.U16(), c.U64()})
	}
	for n := c.Count(24); n > 0; n-- {
		s := sectorMark{number: int64(c.U64())}
		copy(s.sum[:], c.Bytes(len(s.sum)))
		m.sectors = append(m.sectors, s)
	}
	for n := c.Count(8); n > 0; n-- {
		m.inodes = append(m.inodes, c.U64())
	}
	if c.Err() != nil || c.Len() != 0 {
		return nil, fmt.Errorf("marks of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	return m, nil
}
