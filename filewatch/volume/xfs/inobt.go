package xfs

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Inode B+trees: xfs_format.h, "Inode Allocation Btree".
const (
	agiMagic     = 0x58414749 // XAGI
	inobtMagic   = 0x49414254 // IABT
	inobtMagicV5 = 0x49414233 // IAB3

	chunkInodes = 64
)

// chunk is one record of an inode tree: 64 inodes that lie together, but for those
// that do not exist.
type chunk struct {
	first uint64 // inode
	holes uint16 // 4 inodes a bit, only with sparse inodes
	free  uint64
}

func (c *chunk) has(i uint64) bool    { return i < chunkInodes && c.holes>>(i/4)&1 == 0 }
func (c *chunk) isFree(i uint64) bool { return c.free>>i&1 != 0 }

// runs calls fn for each run of inodes that exist.
func (c *chunk) runs(fn func(from, count uint64) error) error {
	for i := uint64(0); i < chunkInodes; i += 4 {
		if !c.has(i) {
			continue
		}
		n := i
		for c.has(n) {
			n += 4
		}
		if err := fn(i, n-i); err != nil {
			return err
		}
		i = n
	}
	return nil
}

// treeWalk goes through the records of the inode tree of one group after the other.
type treeWalk struct {
	v   *Volume
	ctx context.Context
	fn  func(chunk) error
	// lost is told of parts of a group that cannot be read.
	lost func(ag uint32, err error) error

	tree *scratch
	ag   uint32
	next uint64 // first inode of the group not yet seen
}

func (w *treeWalk) groups() error {
	w.tree = w.v.newScratch()
	for ag := range w.v.s.agCount {
		w.ag, w.next = ag, 0
		if err := w.group(); err != nil {
			return err
		}
	}
	return nil
}

// group reads the AGI in the third sector: 20 root, 24 depth.
func (w *treeWalk) group() error {
	at := w.v.s.agb(w.ag, 0) + 2*w.v.s.sector
	b := make([]byte, w.v.s.sector)
	if _, err := w.v.dev.ReadAt(b, at); err != nil {
		return w.lost(w.ag, err)
	}
	if be.Uint32(b) != agiMagic || be.Uint32(b[8:]) != w.ag {
		return w.lost(w.ag, fmt.Errorf("AGI with magic %#x of group %d: %w", be.Uint32(b), be.Uint32(b[8:]), filewatch.ErrCorrupt))
	}
	if err := w.v.verify(b, at, stampAGI, 0); err != nil {
		return w.lost(w.ag, fmt.Errorf("AGI: %w", err))
	}
	levels := be.Uint32(b[24:])
	if levels == 0 || levels > maxDepth {
		return w.lost(w.ag, fmt.Errorf("inode tree of %d levels: %w", levels, filewatch.ErrCorrupt))
	}
	return w.node(be.Uint32(b[20:]), int(levels)-1)
}

// node reads one block of the tree: struct xfs_btree_block with 32-bit pointers.
func (w *treeWalk) node(block uint32, level int) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	b, head, count, err := w.load(block, level)
	if err != nil {
		return w.lost(w.ag, err)
	}
	if level == 0 {
		for i := range count {
			if err := w.record(b[head+16*i:]); err != nil {
				return err
			}
		}
		return nil
	}
	most := (len(b) - head) / 8
	for i := range count {
		if err := w.node(be.Uint32(b[head+4*most+4*i:]), level-1); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) load(block uint32, level int) (b []byte, head, count int, err error) {
	v := w.v
	at, err := v.s.fsb(uint64(w.ag)<<v.s.agBlkLog | uint64(block))
	if err != nil {
		return nil, 0, 0, err
	}
	if b, err = w.tree.block(level, at); err != nil {
		return nil, 0, 0, err
	}
	head, magic, each := 16, uint32(inobtMagic), 16
	if v.s.v5 {
		head, magic = 56, inobtMagicV5
	}
	if level > 0 {
		each = 8
	}
	count = int(be.Uint16(b[6:]))
	if be.Uint32(b) != magic || int(be.Uint16(b[4:])) != level || head+count*each > len(b) {
		return nil, 0, 0, fmt.Errorf("inode tree block at %#x with magic %#x, level %d, %d entries: %w", at, be.Uint32(b), be.Uint16(b[4:]), count, filewatch.ErrCorrupt)
	}
	return b, head, count, v.verify(b, at, stampShort, 0)
}

// record reads struct xfs_inobt_rec: first inode, mask of the holes, counts, mask
// of the free ones.
func (w *treeWalk) record(b []byte) error {
	v := w.v
	first := uint64(be.Uint32(b))
	c := chunk{first: uint64(w.ag)<<(v.s.agBlkLog+v.s.inodesBlkLog) | first, free: be.Uint64(b[8:])}
	if v.s.sparse {
		c.holes = be.Uint16(b[4:])
	}
	if first < w.next {
		return w.lost(w.ag, fmt.Errorf("inode record %d comes after %d: %w", first, w.next, filewatch.ErrCorrupt))
	}
	w.next = first + chunkInodes
	return w.fn(c)
}
