package ext4

import (
	"fmt"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Extent trees: Documentation/filesystems/ext4/ifork.rst.
const (
	extentMagic = 0xF30A
	extentDepth = 5       // EXT4_MAX_EXTENT_DEPTH
	maxInit     = 1 << 15 // longer lengths mean an extent that is not written yet

	// maxExtents bounds the memory of one inode: 24 MiB.
	maxExtents = 1 << 20
)

// extents reads the block map of an inode, old or new, with the changes of fast
// commits.
func (v *Volume) extents(in *inode) ([]filewatch.Extent, error) {
	var m mapper
	m.v, m.in = v, in
	var err error
	if in.flags&flagExtents != 0 {
		err = m.node(in.iblock(), -1, 0, 1<<32)
	} else {
		err = m.indirect()
	}
	if err == nil {
		err = m.err
	}
	if len(in.changes) > 0 && in.kind() != modeDir { // new blocks of a directory are nowhere yet
		m.out = applyChanges(m.out, in.changes, v.s.blockSize)
	}
	if err != nil {
		err = fmt.Errorf("inode %d: %w", in.number, err)
	}
	return m.out, err
}

// mapper collects the extents of one inode in logical order.
type mapper struct {
	v   *Volume
	in  *inode
	out []filewatch.Extent
	err error // the first damaged part; the rest is read nevertheless
}

// add appends blocks that are mapped one to one; phys 0 means that they read as
// zeros.
func (m *mapper) add(logical, phys, count uint64) error {
	bs := m.v.s.blockSize
	e := filewatch.Extent{Logical: int64(logical) * bs, Physical: int64(phys) * bs, Length: int64(count) * bs}
	if phys == 0 {
		e.Physical = -1
	} else if phys >= m.v.s.blocks || count > m.v.s.blocks-phys {
		return fmt.Errorf("extent of %d blocks at %d of %d: %w", count, phys, m.v.s.blocks, filewatch.ErrCorrupt)
	}
	if n := len(m.out); n > 0 {
		p := &m.out[n-1]
		if p.Physical >= 0 && phys != 0 && p.Logical+p.Length == e.Logical && p.Physical+p.Length == e.Physical {
			p.Length += e.Length
			return nil
		}
	}
	if len(m.out) >= maxExtents {
		return fmt.Errorf("more than %d extents: %w", maxExtents, filewatch.ErrNotSupported)
	}
	m.out = append(m.out, e)
	return nil
}

// damage keeps the first error and lets the walk go on.
func (m *mapper) damage(err error) {
	if m.err == nil {
		m.err = err
	}
}

// node reads one node of the tree: the 12-byte header, then 12-byte entries,
// for the logical blocks [low, high). Depth is -1 for the root.
func (m *mapper) node(b []byte, depth int, low, high uint64) error {
	entries, d := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || 12+12*entries > len(b) || d > extentDepth || depth >= 0 && d != depth {
		return fmt.Errorf("extent node with magic %#x, %d entries, depth %d: %w", le.Uint16(b), entries, d, filewatch.ErrCorrupt)
	}
	if d == 0 {
		return m.leaf(b[12:12+12*entries], low, high)
	}
	for i := range entries {
		e := b[12+12*i:]
		from := uint64(le.Uint32(e))
		to := high
		if i+1 < entries {
			to = uint64(le.Uint32(e[12:]))
		}
		if from < low || to > high || from >= to {
			return fmt.Errorf("extent index of blocks [%d,%d) in [%d,%d): %w", from, to, low, high, filewatch.ErrCorrupt)
		}
		child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
		if err := m.child(child, d-1, from, to); err != nil {
			m.damage(err)
		}
		low = to
	}
	return nil
}

// child reads a node that has a block of its own; its checksum follows the
// entries that fit (eh_max, at 0x4).
func (m *mapper) child(n uint64, depth int, low, high uint64) error {
	b, err := m.in.scratch.block(depth+1, n)
	if err != nil {
		return err
	}
	if m.v.s.hasCsum {
		tail := 12 + 12*int(le.Uint16(b[4:]))
		if tail+4 > len(b) || crc(m.in.seed, b[:tail]) != le.Uint32(b[tail:]) {
			return fmt.Errorf("extent block %d checksum: %w", n, filewatch.ErrCorrupt)
		}
	}
	m.in.meta = append(m.in.meta, filewatch.Extent{Logical: -1, Physical: int64(n) * m.v.s.blockSize, Length: m.v.s.blockSize})
	return m.node(b, depth, low, high)
}

func (m *mapper) leaf(b []byte, low, high uint64) error {
	for ; len(b) >= 12; b = b[12:] {
		from, count := uint64(le.Uint32(b)), uint64(le.Uint16(b[4:]))
		phys := uint64(le.Uint32(b[8:])) | uint64(le.Uint16(b[6:]))<<32
		if count > maxInit {
			count, phys = count-maxInit, 0
		} else if phys == 0 {
			return fmt.Errorf("extent of logical block %d at block 0: %w", from, filewatch.ErrCorrupt)
		}
		if from < low || count == 0 || from+count > high {
			return fmt.Errorf("extent of blocks [%d,%d) in [%d,%d): %w", from, from+count, low, high, filewatch.ErrCorrupt)
		}
		if err := m.add(from, phys, count); err != nil {
			return err
		}
		low = from + count
	}
	return nil
}

// indirect reads the block map of ext2 and ext3: 12 direct blocks, then trees of
// depth 1, 2 and 3.
func (m *mapper) indirect() error {
	b := m.in.iblock()
	for i := range 12 {
		if n := le.Uint32(b[4*i:]); n != 0 {
			if err := m.add(uint64(i), uint64(n), 1); err != nil {
				return err
			}
		}
	}
	per := uint64(m.v.s.blockSize / 4)
	logical, span := uint64(12), per
	for depth := 1; depth <= 3; depth++ {
		if n := le.Uint32(b[4*(11+depth):]); n != 0 {
			if err := m.tree(uint64(n), depth, logical, span/per); err != nil {
				return err
			}
		}
		logical += span
		span *= per
	}
	return nil
}

// tree reads one indirect block whose entries cover span logical blocks each.
func (m *mapper) tree(n uint64, depth int, logical, span uint64) error {
	b, err := m.in.scratch.block(depth, n)
	if err != nil {
		return err
	}
	bs := m.v.s.blockSize
	if len(m.in.meta) >= maxExtents {
		return fmt.Errorf("more than %d indirect blocks: %w", maxExtents, filewatch.ErrNotSupported)
	}
	m.in.meta = append(m.in.meta, filewatch.Extent{Logical: -1, Physical: int64(n) * bs, Length: bs})
	for i := uint64(0); i < uint64(bs)/4; i++ {
		n := uint64(le.Uint32(b[4*i:]))
		if n == 0 {
			continue
		}
		if depth == 1 {
			err = m.add(logical+i, n, 1)
		} else {
			err = m.tree(n, depth-1, logical+i*span, span/(uint64(bs)/4))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// findExtent is the index of the extent that covers off, -1 for none.
func findExtent(es []filewatch.Extent, off int64) int {
	i := sort.Search(len(es), func(i int) bool { return es[i].Logical+es[i].Length > off })
	if i == len(es) || es[i].Logical > off {
		return -1
	}
	return i
}
