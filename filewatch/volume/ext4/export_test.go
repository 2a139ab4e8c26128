package ext4

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// FastArea is a volume whose fast commits are replaced by given ones, for tests
// of what is in them apart from how it got there.
type FastArea struct {
	v   *Volume
	j   *journal
	seq uint32
	at  map[int64]int64 // offset in the area by that on the volume
}

// OpenFastArea opens an image. Content is what its fast-commit area holds.
func OpenFastArea(r io.ReaderAt, size int64) (a *FastArea, content []byte, err error) {
	v, err := open(r, size)
	if err != nil {
		return nil, nil, err
	}
	j, err := openJournal(v)
	if err != nil {
		return nil, nil, err
	}
	log, err := j.replay()
	if err != nil {
		return nil, nil, err
	}
	content = make([]byte, int64(j.length-j.fcFirst)*j.bs)
	a = &FastArea{v, j, log.next, map[int64]int64{}}
	for n := j.fcFirst; n < j.length; n++ {
		block, err := j.block(n)
		if err != nil {
			return nil, nil, err
		}
		at := int64(n-j.fcFirst) * j.bs
		if err := j.read(n, content[at:][:j.bs]); err != nil {
			return nil, nil, err
		}
		a.at[int64(block)*j.bs] = at
	}
	return a, content, nil
}

// Seal gives each head of an area the sequence that is wanted and each tail its
// checksum, up to what is no record.
func (a *FastArea) Seal(b []byte) {
	sum := uint32(0)
	for at := 0; at < len(b); at += int(a.j.bs) {
		block := b[at:min(len(b), at+int(a.j.bs))]
		for len(block) >= 4 {
			tag, size := le.Uint16(block), int(le.Uint16(block[2:]))
			if size > len(block)-4 || size < fastLeast(tag) {
				break
			}
			switch tag {
			case fastHead:
				le.PutUint32(block[4:], 0)
				le.PutUint32(block[8:], a.seq)
			case fastTail:
				le.PutUint32(block[4:], a.seq)
				le.PutUint32(block[8:], crc(sum, block[:8]))
			}
			if sum = crc(sum, block[:4+size]); tag == fastTail {
				sum = 0
			}
			block = block[4+size:]
		}
	}
}

// Replay replays an area, then reads all that it changed. It gives the count of
// its records and of inodes that read without an error; what is neither an answer
// nor an error is a broken one.
func (a *FastArea) Replay(area []byte) (records, sound int, broken error) {
	v, j := *a.v, *a.j
	j.v = &Volume{dev: newOverlay(&patched{v.dev.dev, a.at, area}, j.bs, int64(a.v.s.blocks)*j.bs)}
	v.fast, v.damage = &fastCommits{}, nil
	list, err := j.fastLog(a.seq)
	if err != nil {
		return 0, 0, err // reading memory does not fail
	}
	f := &fastCommits{v: &v, inodes: map[uint32]*fastInode{}, dirs: map[uint32]*fastDir{}}
	v.fast = f
	for _, r := range list {
		if f.apply(r.tag, r.value) == nil {
			records++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(f.inodes)) {
		o, c, err := v.Object(uint64(n))
		if o == nil && err == nil {
			broken = errors.Join(broken, fmt.Errorf("inode %d is neither read nor an error", n))
		}
		last := int64(0)
		for _, e := range c.Extents {
			if e.Logical < last || e.Length <= 0 || e.Physical >= 0 && e.Physical+e.Length > int64(v.s.blocks)*v.s.blockSize {
				broken = errors.Join(broken, fmt.Errorf("inode %d has the extent %+v behind %d", n, e, last))
			}
			last = e.Logical + e.Length
		}
		if err == nil {
			sound++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(f.dirs)) {
		v.List(uint64(n), func(name filewatch.Name) error { // damage in it is an error, and no concern here
			if name.Parent != uint64(n) {
				broken = errors.Join(broken, fmt.Errorf("directory %d lists %q of %d", n, name.Name, name.Parent))
			}
			return nil
		})
	}
	return records, sound, broken
}

// patched is the device with another fast-commit area, whose blocks are at.
type patched struct {
	io.ReaderAt
	at   map[int64]int64
	area []byte
}

// ReadAt reads a block of the journal at a time, as [journal.read] does.
func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	at, ok := p.at[off]
	if !ok {
		return p.ReaderAt.ReadAt(b, off)
	}
	clear(b)
	copy(b, p.area[min(at, int64(len(p.area))):])
	return len(b), nil
}

// NameSum is the hash of a name in a directory.
func NameSum(version byte, seed [4]uint32, name string) uint32 {
	return (&nameHash{version: version, seed: seed}).sum([]byte(name), true)
}

// NameSigned is a hash of a name whose characters have signs, or have none.
func NameSigned(name string, signed bool) uint32 {
	return (&nameHash{version: hashHalfMD4}).sum([]byte(name), signed)
}

// NameLeads says whether a name is found in a block of the one hash, with the flags
// of the superblock.
func NameLeads(signs uint32, name string, sum uint32) bool {
	return (&nameHash{version: hashHalfMD4, signs: signs}).in([]byte(name), hashRange{sum, uint64(sum) + 1})
}

// TreeOf reads the tree of a directory of blocks of 64 KiB: a root, nodes of so many
// leaves each, and their leaves, the first so many of all blocks mapped. It gives the
// count of blocks that the tree leads to.
func TreeOf(nodes, leaves int, mapped int64) (int, error) {
	const bs = 64 << 10
	all := 1 + int64(nodes) + int64(nodes)*int64(leaves)
	v := &Volume{s: &super{blockSize: bs, blocks: uint64(all + 1), incompat: incompatLargeDir}}
	v.dev = newOverlay(madeTree{nodes, leaves}, bs, (all+1)*bs)
	d := &dirReader{v: v, in: &inode{size: all * bs, scratch: v.newScratch()}}
	t, err := d.readTree([]filewatch.Extent{{Physical: bs, Length: mapped * bs}})
	return len(t.leaves), err
}

// madeTree is a volume with a directory's blocks from block 1.
type madeTree struct{ nodes, leaves int }

func (m madeTree) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	n, at, count, first := int(off/int64(len(b)))-1, 8, m.leaves, 0
	if n == 0 {
		copy(b[0x1C:], []byte{hashHalfMD4, 8, 1})
		at, count, first = 0x20, m.nodes, 1
	} else {
		first = 1 + m.nodes + (n-1)*m.leaves
	}
	for i := range count {
		hash := uint32(i) << 16
		if n > 0 {
			hash = uint32(n-1)<<16 | uint32(i)
		}
		le.PutUint32(b[at+8*i:], hash)
		le.PutUint32(b[at+8*i+4:], uint32(first+i))
	}
	le.PutUint16(b[at:], uint16(count))
	le.PutUint16(b[at+2:], uint16(count))
	return len(b), nil
}
