package ext4

import (
	"context"
	"fmt"
	"io"
	"iter"

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
	return v.inodes(ctx, v.newScratch(), v.everyGroup, v.report(fn))
}

// report describes each inode to fn.
func (v *Volume) report(fn func(*filewatch.Object, filewatch.Content, error) error) func(*inode, error) error {
	return func(in *inode, damage error) error {
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
	}
}

func (v *Volume) nameless(in *inode) *filewatch.Object {
	o := &filewatch.Object{Volume: v.UUID, Type: filewatch.TypeUnknown}
	if in != nil {
		o.Inode = uint64(in.number)
	}
	return o
}

// everyGroup is an iterator over the numbers of the block groups.
func (v *Volume) everyGroup(yield func(int) bool) {
	for g := range v.groups {
		if !yield(g) {
			return
		}
	}
}

// inodes calls fn for each inode in use of the groups. The inode and its bytes are valid during
// the call only. A region that cannot be read comes as a nil inode with its error.
func (v *Volume) inodes(ctx context.Context, s *scratch, groups iter.Seq[int], fn func(*inode, error) error) error {
	buf := make([]byte, tableChunk)
	for g := range groups {
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
	in := &inode{}
	for size := v.s.inodeSize; len(b) >= size; number, at, b = number+1, at+int64(size), b[size:] {
		raw := b[:size]
		n := uint32(number)
		if v.own(n) || v.fast.skip(n, raw) {
			continue
		}
		if s.only != 0 && le.Uint16(raw)&modeType != s.only && len(v.fast.inodes) == 0 {
			continue
		}
		err := v.parseInodeInto(in, n, at, raw, s)
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
