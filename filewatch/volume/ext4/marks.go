package ext4

import (
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// marks is what of one moment decides how the device's bytes read: the layout,
// what the journal lays over the device, and what fast commits add.
type marks struct {
	shape  [32]byte
	groups []groupMark
	blocks []replaced // sorted by block
	inodes []uint32   // changed by fast commits, sorted
	dirs   []uint32
}

type groupMark struct {
	table  uint64
	unused uint32
}

// Bits that a mounted file system turns on and off.
const (
	incompatVolatile = incompatRecover
	roVolatile       = 0x10000 // ORPHAN_PRESENT
)

func (v *Volume) marks() (*marks, error) {
	if len(v.damage) > 0 {
		return nil, v.damage[0]
	}
	s := *v.s
	s.incompat &^= incompatVolatile
	s.roCompat &^= roVolatile
	m := &marks{shape: blake3.Sum256(fmt.Appendf(nil, "%+v", s)), blocks: v.dev.blocks}
	for i := range v.groups {
		if v.groups[i].bad != nil {
			return nil, v.groups[i].bad
		}
		m.groups = append(m.groups, groupMark{v.groups[i].table, v.groups[i].unused})
	}
	m.inodes, m.dirs = slices.Sorted(maps.Keys(v.fast.inodes)), slices.Sorted(maps.Keys(v.fast.dirs))
	return m, nil
}

// Marks implements volume.Follower. The form is little-endian: 32 bytes of shape;
// then four lists, each with its length (4 bytes) before it: groups (table 8,
// unused 4), replaced blocks (block 8, from 8, escaped 1), inodes (4), directories
// (4).
func (v *Volume) Marks() ([]byte, error) {
	m, err := v.marks()
	if err != nil {
		return nil, err
	}
	return m.append(nil), nil
}

func (m *marks) append(b []byte) []byte {
	b = append(b, m.shape[:]...)
	b = le.AppendUint32(b, uint32(len(m.groups)))
	for _, g := range m.groups {
		b = le.AppendUint32(le.AppendUint64(b, g.table), g.unused)
	}
	b = le.AppendUint32(b, uint32(len(m.blocks)))
	for _, r := range m.blocks {
		b = le.AppendUint64(le.AppendUint64(b, r.block), r.from)
		if r.escaped {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	for _, list := range [][]uint32{m.inodes, m.dirs} {
		b = le.AppendUint32(b, uint32(len(list)))
		for _, n := range list {
			b = le.AppendUint32(b, n)
		}
	}
	return b
}

func parseMarks(b []byte) (*marks, error) {
	c := bin.Little(b)
	m := &marks{}
	copy(m.shape[:], c.Bytes(len(m.shape)))
	for n := c.Count(12); n > 0; n-- {
		m.groups = append(m.groups, groupMark{c.U64(), c.U32()})
	}
	for n := c.Count(17); n > 0; n-- {
		m.blocks = append(m.blocks, replaced{c.U64(), c.U64(), c.U8() != 0})
	}
	for _, list := range []*[]uint32{&m.inodes, &m.dirs} {
		for n := c.Count(4); n > 0; n-- {
			*list = append(*list, c.U32())
		}
	}
	if c.Err() != nil || c.Len() != 0 {
		return nil, fmt.Errorf("marks of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	return m, nil
}
