package ext4

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// hashTree is what the tree of an indexed directory says of its blocks. The kernel
// lists and looks up by the tree alone (fs/ext4/namei.c, 6.12): a name in a block
// that the tree leaves out, or that is not where its hash leads, is gone for the
// guest, though it is in the directory.
type hashTree struct {
	hash   nameHash
	leaves map[uint32]hashRange
}

// maxLeaves bounds the memory of one tree: some 100 MiB. An honest tree of so many leaves
// has some 100 million names.
const maxLeaves = 1 << 21

// hashRange is the hashes that are looked for in a block: [low, high).
type hashRange struct {
	low  uint32
	high uint64
}

// has says whether a name of that hash is found there. A low end with the lowest bit
// set goes on with the hash of the block before; an upper end with it shares its hash
// with the block behind.
func (r hashRange) has(hash uint32) bool { return r.low&^1 <= hash && uint64(hash) < r.high }

// indexed says whether the kernel goes by a tree. A directory that fast commits
// change has names outside of its blocks, and its flags are newer than they.
func (d *dirReader) indexed() bool {
	if d.in.flags&flagIndex == 0 || d.v.s.compat&compatDirIndex == 0 {
		return false
	}
	return d.v.fast.inodes[d.in.number] == nil && d.v.fast.dirs[d.in.number] == nil
}

// readTree reads the tree: dx_root in the first block, with its hash at 0x1C, length
// of this information at 0x1D and depth at 0x1E, then entries.
func (d *dirReader) readTree(es []filewatch.Extent) (*hashTree, error) {
	t := &hashTree{leaves: map[uint32]hashRange{}}
	t.hash = nameHash{seed: d.v.s.hashSeed, signs: d.v.s.hashSigns, caseless: d.in.flags&flagCasefold != 0 && d.v.s.incompat&incompatCasefold != 0}
	most := 1
	if d.v.s.incompat&incompatLargeDir != 0 {
		most = 2
	}
	b, err := d.treeBlock(es, 0, most+1)
	if err != nil {
		return nil, err
	}
	depth := int(b[0x1E])
	if t.hash.version = b[0x1C]; t.hash.version > hashTEA || depth > most || b[0x1D] != 8 || b[0x1F]&1 != 0 {
		return nil, fmt.Errorf("root with hash %d, depth %d: %w", b[0x1C], depth, filewatch.ErrCorrupt)
	}
	return t, d.treeNode(es, t, b, 0x20, depth, hashRange{0, 1 << 32})
}

// treeNode reads the entries of a node, of a hash and a block each; in the place of
// the first hash are how many fit (2 bytes) and how many there are.
func (d *dirReader) treeNode(es []filewatch.Extent, t *hashTree, b []byte, at, depth int, of hashRange) error {
	limit, count := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
	if count == 0 || count > limit || at+8*count > len(b) {
		return fmt.Errorf("node of %d entries, %d at most: %w", count, limit, filewatch.ErrCorrupt)
	}
	for i := range count {
		part := of
		if i > 0 {
			part.low = le.Uint32(b[at+8*i:])
		}
		if i+1 < count {
			part.high = uint64(le.Uint32(b[at+8*i+8:]))
		}
		n := le.Uint32(b[at+8*i+4:]) & 0x0FFFFFFF // dx_get_block
		if part.low < of.low || part.high > of.high || uint64(part.low) > part.high {
			return fmt.Errorf("hashes from %#x to %#x in a node from %#x to %#x: %w", part.low, part.high, of.low, of.high, filewatch.ErrCorrupt)
		}
		if _, twice := t.leaves[n]; twice || n == 0 || int64(n) >= d.in.size/d.v.s.blockSize {
			return fmt.Errorf("it leads to block %d, of %d, or leads there twice: %w", n, d.in.size/d.v.s.blockSize, filewatch.ErrCorrupt)
		}
		if _, err := d.mapped(es, int64(n)); err != nil {
			return err
		}
		if len(t.leaves) >= maxLeaves {
			return fmt.Errorf("more than %d blocks: %w", maxLeaves, filewatch.ErrNotSupported)
		}
		if depth == 0 {
			t.leaves[n] = part
			continue
		}
		t.leaves[n] = hashRange{} // of a node: no names
		child, err := d.treeBlock(es, int64(n), depth)
		if err == nil {
			err = d.treeNode(es, t, child, 8, depth-1, part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// treeBlock reads a block of the directory into the buffer of a depth.
func (d *dirReader) treeBlock(es []filewatch.Extent, n int64, depth int) ([]byte, error) {
	at, err := d.mapped(es, n)
	if err != nil {
		return nil, err
	}
	return d.in.scratch.block(depth, at)
}

// mapped is where on the volume a block of the directory lies. Linux makes no holes in
// directories.
func (d *dirReader) mapped(es []filewatch.Extent, n int64) (uint64, error) {
	bs := d.v.s.blockSize
	i := findExtent(es, n*bs)
	if i < 0 || es[i].Physical < 0 {
		return 0, fmt.Errorf("it leads to block %d, which is not mapped: %w", n, filewatch.ErrCorrupt)
	}
	return uint64((es[i].Physical + n*bs - es[i].Logical) / bs), nil
}

// led reports a name to which the tree does not lead.
func (d *dirReader) led(name []byte, off int64) {
	if d.tree == nil || string(name) == "." || string(name) == ".." {
		return
	}
	if r, ok := d.tree.leaves[uint32(off/d.v.s.blockSize)]; !ok || !d.tree.hash.in(name, r) {
		d.Bad("the hash tree does not lead to %q at %d, so the guest's kernel does not find it: %w", name, off, filewatch.ErrCorrupt)
	}
}
