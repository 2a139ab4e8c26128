package ext4

import (
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Fast commits stand behind the log and repeat, as tagged records, what changed
// since its last full transaction: Documentation/filesystems/ext4/journal.rst
// and fs/ext4/fast_commit.h (6.12). Unlike blocks of the log they cannot be
// laid over the device, so they are kept as changes of inodes and directories
// that every read of those applies.

// fastInode is one inode that fast commits changed.
type fastInode struct {
	raw     []byte
	changes []rangeChange
	// damage is what was wrong with the inode on the disk, unless replaced.
	damage error
}

// fastDir is what changed in one directory.
type fastDir struct {
	added   map[string]uint32
	removed map[fastEntry]bool
}

type fastEntry struct {
	name  string
	inode uint32
}

// fastCommits is what fast commits changed; the zero value is nothing.
type fastCommits struct {
	v      *Volume
	inodes map[uint32]*fastInode
	dirs   map[uint32]*fastDir
}

// rangeChange puts blocks in place of those in a range of an inode; physical
// blocks from 0 mean a hole.
type rangeChange struct {
	logical, phys, count uint64
	unwritten            bool
}

// inode gives an inode's bytes and its changes.
func (f *fastCommits) inode(n uint32, raw []byte) ([]byte, []rangeChange) {
	if c := f.inodes[n]; c != nil {
		return c.raw, c.changes
	}
	return raw, nil
}

// wrote says whether the inode was changed, so that the checksum in it no
// longer holds; the error is what was wrong with it before.
func (f *fastCommits) wrote(n uint32) (bool, error) {
	c := f.inodes[n]
	if c == nil {
		return false, nil
	}
	return true, c.damage
}

// skip says whether an inode was never used, so that most are passed over
// without parsing.
func (f *fastCommits) skip(n uint32, raw []byte) bool {
	return le.Uint16(raw[0x1A:]) == 0 && le.Uint16(raw) == 0 && f.inodes[n] == nil
}

// behind calls fn for the changed inodes of a group that lie in its unused part.
func (f *fastCommits) behind(g uint32, fn func(number uint32, raw []byte) error) error {
	if len(f.inodes) == 0 {
		return nil
	}
	s := f.v.s
	first := g*s.inodesPerGroup + s.inodesPerGroup - f.v.groups[g].unused + 1
	last := (g + 1) * s.inodesPerGroup
	for _, n := range slices.Sorted(maps.Keys(f.inodes)) {
		if n < first || n > last {
			continue
		}
		if err := fn(n, f.inodes[n].raw); err != nil {
			return err
		}
	}
	return nil
}

// filter leaves out what was removed from a directory or will come by [added].
func (f *fastCommits) filter(dir uint32, fn func(filewatch.Name) error) func(filewatch.Name) error {
	d := f.dirs[dir]
	if d == nil {
		return fn
	}
	return func(n filewatch.Name) error {
		if d.removed[fastEntry{string(n.Name), uint32(n.Inode)}] {
			return nil
		}
		if _, ok := d.added[string(n.Name)]; ok {
			return nil
		}
		return fn(n)
	}
}

// added calls fn for what was added to a directory.
func (f *fastCommits) added(dir uint32, fn func(filewatch.Name) error) error {
	d := f.dirs[dir]
	if d == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.added)) {
		if err := fn(filewatch.Name{Parent: uint64(dir), Inode: uint64(d.added[name]), Name: []byte(name)}); err != nil {
			return err
		}
	}
	return nil
}

// touch gives the private copy of an inode that changes are made to.
func (f *fastCommits) touch(n uint32) (*fastInode, error) {
	if c := f.inodes[n]; c != nil {
		return c, nil
	}
	in, err := f.v.readInode(uint64(n), f.v.newScratch())
	if in == nil {
		return nil, err
	}
	c := &fastInode{raw: in.raw}
	if in.links > 0 {
		c.damage = err
	}
	f.inodes[n] = c
	return c, nil
}

func (f *fastCommits) dir(n uint32) *fastDir {
	d := f.dirs[n]
	if d == nil {
		d = &fastDir{added: map[string]uint32{}, removed: map[fastEntry]bool{}}
		f.dirs[n] = d
	}
	return d
}

// apply takes over one record. What cannot be right is an error and changes
// nothing; the kernel passes over such records too.
func (f *fastCommits) apply(tag uint16, b []byte) error {
	switch tag {
	case fastAddRange:
		return f.addRange(b)
	case fastDelRange:
		return f.delRange(b)
	case fastCreate, fastLink, fastUnlink:
		return f.name(tag, b)
	case fastInodeTag:
		return f.replace(le.Uint32(b), b[4:])
	}
	return nil
}

// addRange is struct ext4_fc_add_range: inode, then an extent.
func (f *fastCommits) addRange(b []byte) error {
	c, err := f.touch(le.Uint32(b))
	if err != nil {
		return err
	}
	r := rangeChange{logical: uint64(le.Uint32(b[4:])), count: uint64(le.Uint16(b[8:])), phys: uint64(le.Uint32(b[12:])) | uint64(le.Uint16(b[10:]))<<32}
	if r.count > maxInit {
		r.count, r.unwritten = r.count-maxInit, true
	}
	if r.count == 0 || r.phys == 0 || r.phys >= f.v.s.blocks || r.count > f.v.s.blocks-r.phys {
		return fmt.Errorf("fast commit maps inode %d to blocks %d+%d: %w", le.Uint32(b), r.phys, r.count, filewatch.ErrCorrupt)
	}
	c.changes = append(c.changes, r)
	return nil
}

// delRange is struct ext4_fc_del_range: inode, first block, count.
func (f *fastCommits) delRange(b []byte) error {
	c, err := f.touch(le.Uint32(b))
	if err != nil {
		return err
	}
	c.changes = append(c.changes, rangeChange{logical: uint64(le.Uint32(b[4:])), count: uint64(le.Uint32(b[8:]))})
	return nil
}

// name is struct ext4_fc_dentry_info: parent, inode, name. Link counts follow as
// the kernel's replay changes them; a record of the inode usually sets them
// afterwards.
func (f *fastCommits) name(tag uint16, b []byte) error {
	parent, n, name := le.Uint32(b), le.Uint32(b[4:]), string(b[8:])
	c, err := f.touch(n)
	if err != nil {
		return err
	}
	d, links := f.dir(parent), le.Uint16(c.raw[0x1A:])
	isDir := le.Uint16(c.raw)&modeType == modeDir
	switch tag {
	case fastUnlink:
		if d.added[name] == n {
			delete(d.added, name)
		}
		d.removed[fastEntry{name, n}] = true
		if links > 0 {
			links--
		}
		if isDir {
			links = 0
		}
		if links == 0 {
			c.clear()
		}
	case fastLink:
		delete(d.removed, fastEntry{name, n})
		d.added[name] = n
		links++
	case fastCreate:
		delete(d.removed, fastEntry{name, n})
		d.added[name] = n
		links = 1
		if isDir {
			links = 2
		}
	}
	le.PutUint16(c.raw[0x1A:], links)
	return nil
}

// clear frees the content of an inode whose last link went.
func (c *fastInode) clear() {
	clear(c.raw[0x28:0x64])
	c.changes, c.damage = nil, nil
}

// replace is struct ext4_fc_inode: inode, then its bytes. The block map is not
// part of it; it follows as ranges.
func (f *fastCommits) replace(n uint32, raw []byte) error {
	c, err := f.touch(n)
	if err != nil {
		return err
	}
	if len(raw) < 0x80 || len(raw) > len(c.raw) {
		return fmt.Errorf("fast commit of inode %d with %d bytes: %w", n, len(raw), filewatch.ErrCorrupt)
	}
	kept := append([]byte(nil), c.raw[0x28:0x64]...)
	size := append([]byte(nil), c.raw[0x4:0x8]...)
	copy(c.raw, raw)
	c.damage = nil
	flags, mode := le.Uint32(c.raw[0x20:]), le.Uint16(c.raw)&modeType
	if flags&flagExtents != 0 {
		if le.Uint16(kept) != extentMagic {
			clear(kept)
			le.PutUint16(kept, extentMagic)
			le.PutUint16(kept[4:], 4)
		}
		copy(c.raw[0x28:], kept)
	}
	if mode == modeDir && flags&flagInlineData == 0 && le.Uint16(kept[2:]) > 0 {
		// Blocks added to a directory are not in the log; its new entries are.
		copy(c.raw[0x4:], size)
	}
	return nil
}

// applyChanges splices ranges into an extent list.
func applyChanges(es []filewatch.Extent, changes []rangeChange, bs int64) []filewatch.Extent {
	for _, c := range changes {
		from, to := int64(c.logical)*bs, int64(c.logical+c.count)*bs
		out := make([]filewatch.Extent, 0, len(es)+2)
		placed := c.phys == 0
		place := func() {
			if placed {
				return
			}
			placed = true
			e := filewatch.Extent{Logical: from, Physical: int64(c.phys) * bs, Length: to - from}
			if c.unwritten {
				e.Physical = -1
			}
			out = append(out, e)
		}
		for _, e := range es {
			if head := min(e.Length, from-e.Logical); head > 0 {
				out = append(out, filewatch.Extent{Logical: e.Logical, Physical: e.Physical, Length: head})
			}
			if e.Logical+e.Length > from {
				place()
			}
			if skip := max(0, to-e.Logical); skip < e.Length {
				if skip == 0 && e.Logical < to {
					continue
				}
				t := filewatch.Extent{Logical: e.Logical + skip, Physical: e.Physical, Length: e.Length - skip}
				if t.Physical >= 0 {
					t.Physical += skip
				}
				if t.Logical >= to {
					out = append(out, t)
				}
			}
		}
		place()
		es = out
	}
	return es
}
