package xfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/dirscan"
)

// Inode B+trees: xfs_format.h, "Inode Allocation Btree".
const (
	agiMagic     = 0x58414749 // XAGI
	inobtMagic   = 0x49414254 // IABT
	inobtMagicV5 = 0x49414233 // IAB3

	chunkInodes = 64
)

// Objects calls fn for every object with at least one link, in inode order. The
// file system's own inodes are left out.
func (v *Volume) Objects(ctx context.Context, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	for _, err := range v.damage {
		if err := fn(&filewatch.Object{Volume: v.UUID}, filewatch.Content{At: -1}, err); err != nil {
			return err
		}
	}
	return v.inodes(ctx, func(in *inode, damage error) error {
		if in == nil {
			return fn(&filewatch.Object{Volume: v.UUID, Type: filewatch.TypeUnknown}, filewatch.Content{At: -1}, damage)
		}
		o, c, err := v.describe(in)
		return fn(o, c, errors.Join(damage, err))
	})
}

// inodes calls fn for each inode in use. The inode's bytes are valid during the
// call only. A region that cannot be read comes as a nil inode with its error.
func (v *Volume) inodes(ctx context.Context, fn func(*inode, error) error) error {
	w := inodeWalk{v: v, ctx: ctx, fn: fn, s: v.newScratch(), tree: v.newScratch(), buf: make([]byte, chunkInodes*v.s.inodeSize)}
	for ag := range v.s.agCount {
		w.ag, w.next = ag, 0
		if err := w.group(); err != nil {
			return err
		}
	}
	return nil
}

// inodeWalk goes through the inodes of one group after the other.
type inodeWalk struct {
	v    *Volume
	ctx  context.Context
	fn   func(*inode, error) error
	s    *scratch // of the inodes
	tree *scratch // of the tree, whose blocks are in use meanwhile
	buf  []byte
	ag   uint32
	next uint64 // first inode of the group not yet seen
}

// lost reports a part of the group that cannot be read.
func (w *inodeWalk) lost(err error) error {
	return w.fn(nil, fmt.Errorf("inodes of group %d: %w", w.ag, err))
}

// group reads the AGI in the third sector: 20 root, 24 depth.
func (w *inodeWalk) group() error {
	at := w.v.s.agb(w.ag, 0) + 2*w.v.s.sector
	b := make([]byte, w.v.s.sector)
	if _, err := w.v.dev.ReadAt(b, at); err != nil {
		return w.lost(err)
	}
	if be.Uint32(b) != agiMagic || be.Uint32(b[8:]) != w.ag {
		return w.lost(fmt.Errorf("AGI with magic %#x of group %d: %w", be.Uint32(b), be.Uint32(b[8:]), filewatch.ErrCorrupt))
	}
	if err := w.v.verify(b, at, stampAGI, 0); err != nil {
		return w.lost(fmt.Errorf("AGI: %w", err))
	}
	levels := be.Uint32(b[24:])
	if levels == 0 || levels > maxDepth {
		return w.lost(fmt.Errorf("inode tree of %d levels: %w", levels, filewatch.ErrCorrupt))
	}
	return w.node(be.Uint32(b[20:]), int(levels)-1)
}

// node reads one block of the tree: struct xfs_btree_block with 32-bit pointers.
func (w *inodeWalk) node(block uint32, level int) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	b, head, count, err := w.load(block, level)
	if err != nil {
		return w.lost(err)
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

func (w *inodeWalk) load(block uint32, level int) (b []byte, head, count int, err error) {
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

// record reads the 64 inodes of struct xfs_inobt_rec: first inode, mask of those
// that do not exist (4 inodes a bit, only with sparse inodes), counts, mask of
// the free ones.
func (w *inodeWalk) record(b []byte) error {
	v := w.v
	first, free := uint64(be.Uint32(b)), be.Uint64(b[8:])
	holes := uint16(0)
	if v.s.sparse {
		holes = be.Uint16(b[4:])
	}
	if first < w.next {
		return w.lost(fmt.Errorf("inode record %d comes after %d: %w", first, w.next, filewatch.ErrCorrupt))
	}
	w.next = first + chunkInodes
	number := uint64(w.ag)<<(v.s.agBlkLog+v.s.inodesBlkLog) | first
	for i := uint64(0); i < chunkInodes; {
		if holes>>(i/4)&1 != 0 {
			i += 4
			continue
		}
		n := i
		for n < chunkInodes && holes>>(n/4)&1 == 0 {
			n += 4
		}
		if err := w.run(number+i, n-i, free>>i); err != nil {
			return err
		}
		i = n
	}
	return nil
}

// run reads inodes that lie together. Free ones have mode 0.
func (w *inodeWalk) run(number, count, free uint64) error {
	v, size := w.v, w.v.s.inodeSize
	at, err := v.s.inodeAt(number)
	if err == nil {
		_, err = v.s.inodeAt(number + count - 1)
	}
	b := w.buf[:int64(count)*size]
	if err == nil {
		_, err = v.dev.ReadAt(b, at)
	}
	if err != nil {
		return w.lost(fmt.Errorf("inodes %d to %d: %w", number, number+count-1, err))
	}
	for i := range count {
		raw := b[int64(i)*size:][:size]
		if v.s.own(number+i) || free>>i&1 != 0 && be.Uint16(raw[2:]) == 0 {
			continue
		}
		in, err := v.parseInode(number+i, at+int64(i)*size, raw, w.s)
		if err == nil && in.mode == 0 && free>>i&1 == 0 {
			err = fmt.Errorf("inode %d is in use without a mode: %w", number+i, filewatch.ErrCorrupt)
		}
		if err == nil && in.links == 0 {
			continue
		}
		if err := w.fn(in, err); err != nil {
			return err
		}
	}
	return nil
}

// Names calls fn for every entry of every directory, by place on the disk.
func (v *Volume) Names(ctx context.Context, fn func(filewatch.Name, error) error) error {
	s := v.newScratch()
	q := dirscan.Queue[inode]{Fn: fn, List: func(in *inode, where filewatch.Content, fn func(filewatch.Name) error) error {
		in.scratch = s
		return v.list(in, where, fn)
	}}
	err := v.inodes(ctx, func(in *inode, damage error) error {
		// Regions of inodes that cannot be read are reported by Objects.
		if in == nil || in.kind() != modeDir || in.links == 0 {
			return nil
		}
		where, err := v.dirContent(in)
		dir := *in
		dir.raw, dir.meta = nil, nil
		return q.Add(in.number, dir, where, errors.Join(damage, err))
	})
	if err != nil {
		return err
	}
	return q.Flush()
}

// dirContent is where a directory's entries are.
func (v *Volume) dirContent(in *inode) (filewatch.Content, error) {
	var c filewatch.Content
	data, _, err := in.forks()
	switch {
	case err != nil:
	case data.format == formatLocal && in.size <= int64(len(data.data)):
		c.Inline = append([]byte{}, data.data[:in.size]...)
	default:
		c.Extents, err = v.extents(in, data)
	}
	return c, err
}
