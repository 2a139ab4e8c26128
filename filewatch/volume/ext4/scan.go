package ext4

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// tableChunk is how much of an inode table is read at once.
const tableChunk = 1 << 20

// Objects calls fn for every object with at least one link, in inode order. The
// file system's own inodes are left out.
func (v *Volume) Objects(ctx context.Context, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	for _, err := range v.damage {
		if err := fn(&filewatch.Object{Volume: v.UUID}, filewatch.Content{At: -1}, err); err != nil {
			return err
		}
	}
	return v.inodes(ctx, func(in *inode, damage error) error {
		if in == nil || in.raw == nil {
			return fn(v.nameless(in), filewatch.Content{At: -1}, damage)
		}
		o, c, err := v.describe(in)
		if damage == nil {
			damage = err
		} else if err != nil && in.links == 0 {
			return fn(v.nameless(in), filewatch.Content{At: in.at}, damage)
		}
		return fn(o, c, damage)
	})
}

func (v *Volume) nameless(in *inode) *filewatch.Object {
	o := &filewatch.Object{Volume: v.UUID, Type: filewatch.TypeUnknown}
	if in != nil {
		o.Inode = uint64(in.number)
	}
	return o
}

// inodes calls fn for each inode in use. The inode's bytes are valid during the
// call only. A region that cannot be read comes as a nil inode with its error.
func (v *Volume) inodes(ctx context.Context, fn func(*inode, error) error) error {
	s := v.newScratch()
	buf := make([]byte, tableChunk)
	for g := range v.groups {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := v.groups[g].bad; err != nil {
			if err := fn(nil, err); err != nil {
				return err
			}
			continue
		}
		if err := v.groupInodes(uint32(g), buf, s, fn); err != nil {
			return err
		}
		err := v.fast.behind(uint32(g), func(n uint32, raw []byte) error { return v.chunk(raw, uint64(n), v.inodeAt(uint64(n)), s, fn) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) groupInodes(g uint32, buf []byte, s *scratch, fn func(*inode, error) error) error {
	size := int64(v.s.inodeSize)
	end := int64(v.s.inodesPerGroup-v.groups[g].unused) * size
	table := int64(v.groups[g].table) * v.s.blockSize
	first := uint64(g) * uint64(v.s.inodesPerGroup)
	for off := int64(0); off < end; {
		if len(v.fast.inodes) == 0 { // else an inode may be in the journal only
			next, err := v.dev.NextData(table + off)
			if err == io.EOF || err == nil && next >= table+end {
				return nil
			}
			if err == nil {
				off = (next - table) / size * size
			}
		}
		b := buf[:min(end-off, int64(len(buf)))]
		if _, err := v.dev.ReadAt(b, table+off); err != nil {
			err = fmt.Errorf("read inodes %d to %d: %w", first+uint64(off/size)+1, first+uint64((off+int64(len(b)))/size), err)
			if err := fn(nil, err); err != nil {
				return err
			}
		} else if err := v.chunk(b, first+uint64(off/size)+1, table+off, s, fn); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// chunk goes through the inodes in b, the first of which has the given number
// and lies at the given offset.
func (v *Volume) chunk(b []byte, number uint64, at int64, s *scratch, fn func(*inode, error) error) error {
	for size := v.s.inodeSize; len(b) >= size; number, at, b = number+1, at+int64(size), b[size:] {
		raw := b[:size]
		n := uint32(number)
		if v.own(n) || v.fast.skip(n, raw) {
			continue
		}
		in, err := v.parseInode(n, at, raw, s)
		if in.links == 0 && (err == nil || in.mode == 0) {
			continue
		}
		if in.flags&flagEAInode != 0 && err == nil {
			continue
		}
		if err := fn(in, err); err != nil {
			return err
		}
	}
	return nil
}

// own says whether an inode is the file system's and has no name.
func (v *Volume) own(n uint32) bool {
	if n == rootInode {
		return false
	}
	return n < v.s.firstInode || n == v.s.journalInode || n == v.s.orphanFile ||
		n == v.s.quotaInodes[0] || n == v.s.quotaInodes[1] || n == v.s.quotaInodes[2]
}

// dirBatch is how many directories are sorted by place at a time.
const dirBatch = 16384

// pendingDir is a directory whose blocks are read later.
type pendingDir struct {
	in    inode
	where filewatch.Content
}

func (d *pendingDir) place() int64 {
	if len(d.where.Extents) == 0 {
		return -1
	}
	return d.where.Extents[0].Physical
}

// Names calls fn for every entry of every directory, by place on the disk.
func (v *Volume) Names(ctx context.Context, fn func(filewatch.Name, error) error) error {
	n := namer{v: v, fn: fn, scratch: v.newScratch()}
	err := v.inodes(ctx, n.inode)
	if err == nil {
		err = n.flush()
	}
	return err
}

type namer struct {
	v       *Volume
	fn      func(filewatch.Name, error) error
	scratch *scratch
	pending []pendingDir
}

// inode takes note of a directory. Regions of inodes that cannot be read are
// reported by Objects.
func (n *namer) inode(in *inode, damage error) error {
	if in == nil || in.kind() != modeDir || in.links == 0 {
		return nil
	}
	d := pendingDir{in: *in}
	d.in.scratch = n.scratch
	if in.flags&flagInlineData != 0 {
		_, inline, err := n.v.xattrs(in)
		damage = errors.Join(damage, err)
		d.where.Inline = append(append([]byte(nil), in.iblock()...), inline...)
	} else if in.flags&flagEncrypt == 0 {
		var err error
		d.where.Extents, err = n.v.extents(in)
		damage = errors.Join(damage, err)
	}
	d.in.raw, d.in.meta = nil, nil
	if damage != nil {
		if err := n.fn(filewatch.Name{Parent: uint64(in.number)}, damage); err != nil {
			return err
		}
	}
	if n.pending = append(n.pending, d); len(n.pending) < dirBatch {
		return nil
	}
	return n.flush()
}

func (n *namer) flush() error {
	slices.SortFunc(n.pending, func(a, b pendingDir) int { return cmp.Compare(a.place(), b.place()) })
	for i := range n.pending {
		d := &n.pending[i]
		err := n.v.list(&d.in, d.where, func(name filewatch.Name) error { return n.fn(name, nil) })
		if damage := damageOf(err); damage != nil {
			err = n.fn(filewatch.Name{Parent: uint64(d.in.number)}, damage)
		}
		if err != nil {
			return err
		}
	}
	n.pending = n.pending[:0]
	return nil
}

// damageOf is the damage in an error of list, nil when it was the callback's.
func damageOf(err error) error {
	var d *dirError
	if errors.As(err, &d) {
		return err
	}
	return nil
}
