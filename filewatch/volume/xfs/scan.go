package xfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/dirscan"
)

// Objects calls fn for every object with at least one link, in inode order. The
// file system's own inodes are left out.
func (v *Volume) Objects(ctx context.Context, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	for _, err := range v.damage {
		if err := fn(&filewatch.Object{Volume: v.UUID}, filewatch.Content{At: -1}, err); err != nil {
			return err
		}
	}
	return v.inodes(ctx, v.report(fn))
}

// report describes each inode to fn.
func (v *Volume) report(fn func(*filewatch.Object, filewatch.Content, error) error) func(*inode, error) error {
	return func(in *inode, damage error) error {
		if in == nil {
			return fn(&filewatch.Object{Volume: v.UUID, Type: filewatch.TypeUnknown}, filewatch.Content{At: -1}, damage)
		}
		o, c, err := v.describe(in)
		return fn(o, c, errors.Join(damage, err))
	}
}

// inodes calls fn for each inode in use. The inode's bytes are valid during the
// call only. A region that cannot be read comes as a nil inode with its error.
func (v *Volume) inodes(ctx context.Context, fn func(*inode, error) error) error {
	r := v.newInodeReader(fn)
	w := treeWalk{v: v, ctx: ctx, lost: r.lost, fn: func(c chunk) error {
		return c.runs(func(from, count uint64) error { return r.run(&c, from, count, nil) })
	}}
	return w.groups()
}

// inodeReader reads inodes that the tree names.
type inodeReader struct {
	v   *Volume
	fn  func(*inode, error) error
	s   *scratch
	buf []byte
}

func (v *Volume) newInodeReader(fn func(*inode, error) error) *inodeReader {
	return &inodeReader{v: v, fn: fn, s: v.newScratch(), buf: make([]byte, chunkInodes*v.s.inodeSize)}
}

// lost reports a part of a group that cannot be read.
func (r *inodeReader) lost(ag uint32, err error) error {
	return r.fn(nil, fmt.Errorf("inodes of group %d: %w", ag, err))
}

// run reads inodes of a chunk that lie together. Free ones have mode 0. Those for
// which skip, if there is one, says so are passed over.
func (r *inodeReader) run(c *chunk, from, count uint64, skip func(number uint64, raw []byte) bool) error {
	v, size, number := r.v, r.v.s.inodeSize, c.first+from
	at, err := v.s.inodeAt(number)
	if err == nil {
		_, err = v.s.inodeAt(number + count - 1)
	}
	b := r.buf[:int64(count)*size]
	if err == nil {
		_, err = v.dev.ReadAt(b, at)
	}
	if err != nil {
		return r.lost(v.s.groupOf(number), fmt.Errorf("inodes %d to %d: %w", number, number+count-1, err))
	}
	for i := range count {
		raw := b[int64(i)*size:][:size]
		free := c.isFree(from + i)
		if v.s.own(number+i) || free && be.Uint16(raw[2:]) == 0 || skip != nil && skip(number+i, raw) {
			continue
		}
		in, err := v.parseInode(number+i, at+int64(i)*size, raw, r.s)
		if err == nil && in.mode == 0 && !free {
			err = fmt.Errorf("inode %d is in use without a mode: %w", number+i, filewatch.ErrCorrupt)
		}
		if err == nil && in.links == 0 {
			continue
		}
		if err := r.fn(in, err); err != nil {
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
