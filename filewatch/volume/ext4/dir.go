package ext4

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/dirscan"
)

// Directories: Documentation/filesystems/ext4/directory.rst. The nodes of a
// hashed tree look like blocks with one empty entry, so every block is read as
// a list of entries whatever it is. What the tree says is held against that: see
// hashTree.

// list calls fn for the entries of a directory. Damage is collected and
// returned at the end unless fn fails.
func (v *Volume) list(in *inode, c filewatch.Content, fn func(filewatch.Name) error) error {
	if in.kind() != modeDir {
		return fmt.Errorf("inode %d is not a directory", in.number)
	}
	if in.flags&flagEncrypt != 0 {
		d := dirscan.New(uint64(in.number), fn)
		d.Bad("names: %w", filewatch.ErrEncrypted)
		return d.Err()
	}
	d := dirReader{v: v, in: in, Entries: dirscan.New(uint64(in.number), v.fast.filter(in.number, fn))}
	if c.Inline != nil {
		d.inline(c.Inline)
	} else {
		d.blocks(c.Extents)
	}
	if !d.Stopped() {
		if err := v.fast.added(in.number, fn); err != nil {
			return err
		}
	}
	return d.Err()
}

type dirReader struct {
	*dirscan.Entries
	v    *Volume
	in   *inode
	tree *hashTree // nil without one
}

// inline reads entries kept in the inode: the parent's number, entries in the
// rest of the block map, then entries in the attribute. Both areas are lists of
// their own (fs/ext4/inline.c).
func (d *dirReader) inline(b []byte) {
	if len(b) < 60 {
		d.Bad("%d bytes of inline data: %w", len(b), filewatch.ErrCorrupt)
		return
	}
	d.entries(b[4:60], 0)
	if len(b) > 60 && !d.Stopped() {
		d.entries(b[60:], 0)
	}
}

func (d *dirReader) blocks(es []filewatch.Extent) {
	bs := d.v.s.blockSize
	if d.indexed() {
		var err error
		if d.tree, err = d.readTree(es); err != nil {
			d.tree = nil
			d.Bad("hash tree: %w", err)
		}
	}
	var done int64
	for _, e := range es {
		if e.Physical < 0 {
			d.Bad("block %d is not written: %w", e.Logical/bs, filewatch.ErrCorrupt)
			continue
		}
		if e.Logical != done {
			d.Bad("hole at %d: %w", done, filewatch.ErrCorrupt)
		}
		for off := int64(0); off < e.Length && e.Logical+off < d.in.size; off += bs {
			b, err := d.in.scratch.block(0, uint64((e.Physical+off)/bs))
			if err != nil {
				d.Bad("block %d: %w", (e.Logical+off)/bs, err)
				continue
			}
			d.block(b, e.Logical+off)
			if d.Stopped() {
				return
			}
		}
		done = e.Logical + e.Length
	}
	if _, pending := d.v.fast.inodes[d.in.number]; done < d.in.size && !pending {
		d.Bad("hole at %d: %w", done, filewatch.ErrCorrupt)
	}
}

// block reads one directory block. One whose checksum is wrong is read
// nevertheless, and reported.
func (d *dirReader) block(b []byte, off int64) {
	end := len(b)
	if d.v.s.hasCsum {
		tree := d.in.flags&flagIndex != 0
		if at, ok := treeNode(b); tree && ok && (off == 0 || at == 8) {
			if !treeSum(d.in.seed, b, at) {
				d.Bad("checksum of tree node at %d: %w", off, filewatch.ErrCorrupt)
			}
		} else {
			if !leafSum(d.in.seed, b) {
				d.Bad("checksum of block at %d: %w", off, filewatch.ErrCorrupt)
			}
			end -= 12
		}
	}
	d.entries(b[:end], off)
}

// entries walks struct ext4_dir_entry_2: inode at 0x0, length at 0x4, length of
// the name at 0x6, type at 0x7, name from 0x8. The kernel takes one byte for the
// length without the feature of types too, where two stand by the format.
func (d *dirReader) entries(b []byte, off int64) {
	for at := 0; at+8 <= len(b); {
		size, named := recordLength(le.Uint16(b[at+4:]), d.v.s.blockSize), int(b[at+6])
		if size < 12 || size&3 != 0 || at+size > len(b) || 8+named > size || at+8+named > len(b) {
			d.Bad("entry of %d bytes at %d: %w", size, off+int64(at), filewatch.ErrCorrupt)
			return
		}
		if number := le.Uint32(b[at:]); number != 0 {
			d.entry(number, b[at+8:][:named], off+int64(at))
			if d.Stopped() {
				return
			}
		}
		at += size
	}
}

func (d *dirReader) entry(number uint32, name []byte, off int64) {
	if uint64(number) > d.v.s.inodes {
		d.Bad("entry at %d names %q, inode %d: %w", off, name, number, filewatch.ErrCorrupt)
		return
	}
	d.led(name, off)
	d.Add(uint64(number), name, off)
}

// recordLength decodes lengths of 64 KiB blocks, which do not fit 16 bits
// (ext4_rec_len_from_disk).
func recordLength(n uint16, blockSize int64) int {
	if blockSize < 65536 {
		return int(n)
	}
	if n == 65535 || n == 0 {
		return 65536
	}
	return int(n)&65532 | int(n)&3<<16
}

// leafSum verifies a block by the entry at its end: inode 0, length 12, type
// 0xDE, checksum.
func leafSum(seed uint32, b []byte) bool {
	t := b[len(b)-12:]
	if le.Uint32(t) != 0 || le.Uint16(t[4:]) != 12 || t[6] != 0 || t[7] != 0xDE {
		return false
	}
	return crc(seed, b[:len(b)-12]) == le.Uint32(t[8:])
}

// treeNode recognizes the root or an inner node of a hashed tree and gives the
// offset of its limit and count (get_dx_countlimit in fs/ext4/namei.c).
func treeNode(b []byte) (int, bool) {
	switch recordLength(le.Uint16(b[4:]), int64(len(b))) {
	case len(b):
		return 8, true
	case 12:
		if recordLength(le.Uint16(b[12+4:]), int64(len(b))) == len(b)-12 && le.Uint32(b[24:]) == 0 && b[29] == 8 {
			return 32, true
		}
	}
	return 0, false
}

// treeSum verifies a node: everything up to the last used entry, then the
// reserved word of the tail behind the last possible entry.
func treeSum(seed uint32, b []byte, at int) bool {
	limit, count := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
	tail := at + 8*limit
	if count > limit || tail+8 > len(b) {
		return false
	}
	sum := crc(seed, b[:at+8*count])
	sum = crc(crc(sum, b[tail:tail+4]), zero4[:])
	return sum == le.Uint32(b[tail+4:])
}
