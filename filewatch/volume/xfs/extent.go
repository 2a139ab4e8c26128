package xfs

import (
	"fmt"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
)

const (
	// maxDepth bounds a block-map tree; the format's own bound is 9
	// (XFS_BM_MAXLEVELS).
	maxDepth = 9
	// maxExtents bounds the memory of one inode: 24 MiB.
	maxExtents = 1 << 20

	bmapMagic   = 0x424d4150 // BMAP
	bmapMagicV5 = 0x424d4133 // BMA3
)

// mapper collects the extents of one fork in logical order.
type mapper struct {
	v    *Volume
	in   *inode
	out  []filewatch.Extent
	next uint64 // first logical block not yet mapped
	err  error
}

// extents reads the block map of a fork, with what unfinished intents of the
// log still have to do to it.
func (v *Volume) extents(in *inode, f fork) ([]filewatch.Extent, error) {
	m := mapper{v: v, in: in}
	var err error
	switch f.format {
	case formatExtents:
		if f.extents > uint64(len(f.data)/16) {
			err = fmt.Errorf("%d extents in %d bytes: %w", f.extents, len(f.data), filewatch.ErrCorrupt)
			break
		}
		err = m.records(f.data[:16*f.extents])
	case formatBtree:
		err = m.root(f.data)
	default:
		err = fmt.Errorf("fork in format %d: %w", f.format, filewatch.ErrCorrupt)
	}
	if err == nil {
		err = m.err
	}
	if !f.attr {
		for _, c := range v.pending.maps[in.number] {
			m.out = splice(m.out, c)
		}
	}
	if err != nil {
		err = fmt.Errorf("inode %d: %w", in.number, err)
	}
	return m.out, err
}

// records decodes struct xfs_bmbt_rec: 1 bit unwritten, 54 bits logical block,
// 52 bits block, 21 bits count.
func (m *mapper) records(b []byte) error {
	for ; len(b) >= 16; b = b[16:] {
		hi, lo := be.Uint64(b), be.Uint64(b[8:])
		logical, count := hi<<1>>10, lo&(1<<21-1)
		block := hi&(1<<9-1)<<43 | lo>>21
		if logical < m.next || count == 0 || logical+count > uint64(1<<62/m.v.s.blockSize) {
			return fmt.Errorf("extent of %d blocks at %d after %d: %w", count, logical, m.next, filewatch.ErrCorrupt)
		}
		m.next = logical + count
		at, err := m.v.s.fsb(block)
		if err == nil {
			_, err = m.v.s.fsb(block + count - 1)
		}
		if err != nil {
			return fmt.Errorf("extent of %d blocks: %w", count, err)
		}
		if len(m.out) >= maxExtents {
			return fmt.Errorf("more than %d extents: %w", maxExtents, filewatch.ErrNotSupported)
		}
		e := filewatch.Extent{Logical: int64(logical) * m.v.s.blockSize, Physical: at, Length: int64(count) * m.v.s.blockSize}
		if hi>>63 != 0 {
			e.Physical = -1
		}
		m.add(e)
	}
	return nil
}

// add joins extents that are one run.
func (m *mapper) add(e filewatch.Extent) {
	if n := len(m.out); n > 0 {
		p := &m.out[n-1]
		if p.Logical+p.Length == e.Logical && (p.Physical >= 0 && p.Physical+p.Length == e.Physical || p.Physical < 0 && e.Physical < 0) {
			p.Length += e.Length
			return
		}
	}
	m.out = append(m.out, e)
}

// root is the tree's root in the inode, struct xfs_bmdr_block: level, count,
// then all keys, then all pointers.
func (m *mapper) root(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("tree root of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	level, count, most := int(be.Uint16(b)), int(be.Uint16(b[2:])), (len(b)-4)/16
	if level == 0 || level > maxDepth || count > most {
		return fmt.Errorf("tree root of level %d with %d of %d entries: %w", level, count, most, filewatch.ErrCorrupt)
	}
	return m.children(b[4+8*most:], count, level)
}

func (m *mapper) children(ptrs []byte, count, level int) error {
	for i := range count {
		if err := m.node(be.Uint64(ptrs[8*i:]), level-1); err != nil {
			m.damage(err)
		}
	}
	return nil
}

// damage keeps the first error and lets the walk go on.
func (m *mapper) damage(err error) {
	if m.err == nil {
		m.err = err
	}
}

// node reads one block of the tree: struct xfs_btree_block with 64-bit pointers.
func (m *mapper) node(n uint64, level int) error {
	at, err := m.v.s.fsb(n)
	if err != nil {
		return fmt.Errorf("tree node: %w", err)
	}
	b, err := m.in.scratch.block(level, at)
	if err != nil {
		return err
	}
	m.in.meta = append(m.in.meta, filewatch.Extent{Logical: -1, Physical: at, Length: m.v.s.blockSize})
	head, magic := 24, uint32(bmapMagic)
	if m.v.s.v5 {
		head, magic = 72, bmapMagicV5
	}
	count, most := int(be.Uint16(b[6:])), (len(b)-head)/16
	if be.Uint32(b) != magic || int(be.Uint16(b[4:])) != level || count > most {
		return fmt.Errorf("tree node at %#x with magic %#x, level %d, %d entries: %w", at, be.Uint32(b), be.Uint16(b[4:]), count, filewatch.ErrCorrupt)
	}
	if err := m.v.verify(b, at, stampLong, m.in.number); err != nil {
		return err
	}
	if level == 0 {
		return m.records(b[head : head+16*count])
	}
	return m.children(b[head+8*most:], count, level)
}

// splice puts one run in place of what a list had there; Physical -1 takes the
// run out.
func splice(es []filewatch.Extent, c filewatch.Extent) []filewatch.Extent {
	end := c.Logical + c.Length
	var out []filewatch.Extent
	for _, e := range es {
		if head := min(e.Length, c.Logical-e.Logical); head > 0 {
			out = append(out, part(e, 0, head))
		}
		if from := max(0, end-e.Logical); from < e.Length {
			out = append(out, part(e, from, e.Length-from))
		}
	}
	if c.Physical >= 0 {
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Logical < out[j].Logical })
	return out
}

func part(e filewatch.Extent, from, length int64) filewatch.Extent {
	p := filewatch.Extent{Logical: e.Logical + from, Physical: e.Physical, Length: length}
	if p.Physical >= 0 {
		p.Physical += from
	}
	return p
}

// blockAt is the volume offset of a byte of a fork.
func blockAt(es []filewatch.Extent, off int64) (int64, bool) {
	i := sort.Search(len(es), func(i int) bool { return es[i].Logical+es[i].Length > off })
	if i == len(es) || es[i].Logical > off || es[i].Physical < 0 {
		return 0, false
	}
	return es[i].Physical + off - es[i].Logical, true
}
