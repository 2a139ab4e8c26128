package xfs

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/dirscan"
)

// Directories: fs/xfs/libxfs/xfs_da_format.h, directory version 2. Names stand
// in the inode, in one block with its index, or in data blocks below 32 GiB of
// the directory's address space. The indexes are held against them: see dirIndex.
const (
	dirBlockMagic   = 0x58443242 // XD2B
	dirDataMagic    = 0x58443244 // XD2D
	dirBlockMagicV5 = 0x58444233 // XDB3
	dirDataMagicV5  = 0x58444433 // XDD3

	dirLeafOffset = 1 << 35
)

type dirReader struct {
	*dirscan.Entries
	v     *Volume
	in    *inode
	index *dirIndex // nil for the form in the inode
}

// list calls fn for the entries of a directory. Damage is collected and
// returned at the end unless fn fails.
func (v *Volume) list(in *inode, c filewatch.Content, fn func(filewatch.Name) error) error {
	if in.kind() != modeDir {
		return fmt.Errorf("inode %d is not a directory", in.number)
	}
	d := dirReader{v: v, in: in, Entries: dirscan.New(in.number, fn)}
	if c.Inline != nil {
		d.short(c.Inline)
	} else {
		d.blocks(c.Extents)
	}
	return d.Err()
}

// short reads the form in the inode: count, count of 64-bit numbers, parent,
// then length of the name, 2 bytes, name, type, inode number.
func (d *dirReader) short(b []byte) {
	if len(b) < 6 {
		d.Bad("%d bytes in the inode: %w", len(b), filewatch.ErrCorrupt)
		return
	}
	count, width := int(b[0]), 4
	if b[1] != 0 {
		width = 8
	}
	ft := 0
	if d.v.s.ftype {
		ft = 1
	}
	at := 2 + width
	for range count {
		if at+3 > len(b) || at+3+int(b[at])+ft+width > len(b) {
			d.Bad("entry at %d of %d: %w", at, len(b), filewatch.ErrCorrupt)
			return
		}
		name := b[at+3:][:b[at]]
		num := b[at+3+len(name)+ft:]
		n := uint64(be.Uint32(num))
		if width == 8 {
			n = be.Uint64(num) & (1<<56 - 1)
		}
		d.Add(n, name, int64(at))
		if d.Stopped() {
			return
		}
		at += 3 + len(name) + ft + width
	}
	if at != len(b) {
		d.Bad("%d bytes after the last entry: %w", len(b)-at, filewatch.ErrCorrupt)
	}
}

// blocks reads the data blocks, each of which may lie in several extents.
func (d *dirReader) blocks(es []filewatch.Extent) {
	size := d.v.s.blockSize << d.v.s.dirBlkLog
	s := d.in.scratch
	if s.dir == nil {
		s.dir = make([]byte, size)
	}
	d.index = newDirIndex(d.v.s)
	end := int64(0)
	for _, e := range es {
		for off := max(end, e.Logical/size*size); off < min(e.Logical+e.Length, dirLeafOffset); off += size {
			end = off + size
			at, err := d.load(s, es, off)
			if err != nil {
				d.Bad("block at %d: %w", off, err)
				continue
			}
			d.block(s.dir, off, at)
			if d.Stopped() {
				return
			}
		}
	}
	if end < min(d.in.size, dirLeafOffset) {
		d.Bad("data end at %d of %d: %w", end, d.in.size, filewatch.ErrCorrupt)
	}
	if d.Err() == nil {
		d.indexed(es)
	}
}

// load reads a directory block and gives the offset of its first part.
func (d *dirReader) load(s *scratch, es []filewatch.Extent, off int64) (int64, error) {
	if err := s.spend(int64(len(s.dir))); err != nil {
		return 0, err
	}
	bs, first := d.v.s.blockSize, int64(-1)
	for i := int64(0); i < int64(len(s.dir)); i += bs {
		at, ok := blockAt(es, off+i)
		if !ok {
			return 0, fmt.Errorf("not mapped at %d: %w", off+i, filewatch.ErrCorrupt)
		}
		if first < 0 {
			first = at
		}
		if _, err := d.v.dev.ReadAt(s.dir[i:i+bs], at); err != nil {
			return 0, err
		}
		if at != first+i && d.v.dev.changed(at, bs) {
			d.v.dev.note(first) // the checksum of the whole is stale
		}
	}
	return first, nil
}

// block reads one data block; entries are read from a block whose checksum is
// wrong too, and it is reported.
func (d *dirReader) block(b []byte, off, at int64) {
	head, end := 16, len(b)
	if d.v.s.v5 {
		head = 64
		if err := d.v.verify(b, at, stampDir, d.in.number); err != nil {
			d.Bad("block at %d: %w", off, err)
		}
	}
	switch magic := be.Uint32(b); magic {
	case dirDataMagic, dirDataMagicV5:
	case dirBlockMagic, dirBlockMagicV5: // an index of 8-byte entries, then its count
		n := int64(be.Uint32(b[end-8:]))
		if n*8+8 > int64(end-head) {
			d.Bad("block at %d with %d index entries: %w", off, n, filewatch.ErrCorrupt)
			return
		}
		end -= int(n)*8 + 8
		if err := d.index.entries(b[end:len(b)-8], 1<<32-1); err != nil {
			d.Bad("index of block at %d: %w", off, err)
		}
	default:
		d.Bad("block at %d with magic %#x: %w", off, magic, filewatch.ErrCorrupt)
		return
	}
	d.entries(b[:end], head, off)
}

// entries walks struct xfs_dir2_data_entry: inode number, length of the name,
// name, type, padding, own offset; and struct xfs_dir2_data_unused: 0xFFFF,
// length.
func (d *dirReader) entries(b []byte, at int, off int64) {
	for at < len(b) {
		if at+8 > len(b) {
			d.Bad("entry at %d of %d: %w", off+int64(at), len(b), filewatch.ErrCorrupt)
			return
		}
		if be.Uint16(b[at:]) == 0xFFFF {
			n := int(be.Uint16(b[at+2:]))
			if n < 8 || n&7 != 0 || at+n > len(b) {
				d.Bad("free space of %d bytes at %d: %w", n, off+int64(at), filewatch.ErrCorrupt)
				return
			}
			at += n
			continue
		}
		n := 9 + int(b[at+8]) + 2
		if d.v.s.ftype {
			n++
		}
		n = (n + 7) &^ 7
		if at+n > len(b) {
			d.Bad("entry of %d bytes at %d: %w", n, off+int64(at), filewatch.ErrCorrupt)
			return
		}
		if tag := int(be.Uint16(b[at+n-2:])); tag != at&0xFFFF {
			d.Bad("entry at %d says it is at %d: %w", off+int64(at), tag, filewatch.ErrCorrupt)
			return
		}
		d.index.name(b[at+9:][:b[at+8]], off+int64(at))
		d.Add(be.Uint64(b[at:]), b[at+9:][:b[at+8]], off+int64(at))
		if d.Stopped() {
			return
		}
		at += n
	}
}
