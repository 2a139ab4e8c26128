package xfs

import (
	"fmt"
	"hash/maphash"
	"math/bits"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// The index of a directory: entries of a name's hash and its address in units of 8
// bytes, sorted by hash, at the end of the only block or in a tree from 32 GiB on
// (xfs_da_format.h, 6.12).
const (
	dirLeaf1    = 0xd2f1
	dirLeafN    = 0xd2ff
	dirLeaf1V5  = 0x3df1
	dirLeafNV5  = 0x3dff
	dirMaxDepth = 5 // XFS_DA_NODE_MAXDEPTH
)

// dirIndex holds a directory's index against its names. The kernel looks up by the
// index alone: a name without an entry is gone for the guest, an entry that leads
// elsewhere is a name that no listing shows. Both sides are summed up under a key of
// this moment, so that a directory of any size takes no memory.
type dirIndex struct {
	key           maphash.Seed
	names, leaves uint64
	last          uint32 // hash of the last entry
	caseless      bool
	unsure        bool // a hash may be either of two
	seen          map[uint32]bool
}

func newDirIndex(s *super) *dirIndex {
	return &dirIndex{key: maphash.MakeSeed(), caseless: s.version&versionCaseless != 0, seen: map[uint32]bool{}}
}

// name takes a name at an offset of the directory.
func (x *dirIndex) name(name []byte, off int64) {
	x.names += maphash.Comparable(x.key, uint64(x.hash(name))<<32|uint64(uint32(off>>3)))
}

// hash is xfs_da_hashname, or xfs_ascii_ci_hashname: kernels before 6.4 folded
// letters beyond ASCII as well.
func (x *dirIndex) hash(name []byte) uint32 {
	if !x.caseless {
		return hashName(name)
	}
	folded := make([]byte, len(name))
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		folded[i] = c
		x.unsure = x.unsure || c >= 0x80
	}
	return hashName(folded)
}

// hashName is xfs_da_hashname.
func hashName(name []byte) (sum uint32) {
	for _, c := range name {
		sum = bits.RotateLeft32(sum, 7) ^ uint32(c)
	}
	return sum
}

// entries takes entries of the index, of which none may have a hash beyond high.
// Those of names that went have no address.
func (x *dirIndex) entries(b []byte, high uint32) error {
	for ; len(b) >= 8; b = b[8:] {
		hash, address := be.Uint32(b), be.Uint32(b[4:])
		if hash < x.last || hash > high {
			return fmt.Errorf("hash %#x after %#x, up to %#x: %w", hash, x.last, high, filewatch.ErrCorrupt)
		}
		if x.last = hash; address != 0 {
			x.leaves += maphash.Comparable(x.key, uint64(hash)<<32|uint64(address))
		}
	}
	return nil
}

// readIndex reads a tree of the index from a block of it.
func (d *dirReader) readIndex(es []filewatch.Extent, n uint32, depth int, high uint32) error {
	if d.index.seen[n] || depth < 0 {
		return fmt.Errorf("block %d comes twice: %w", n, filewatch.ErrCorrupt)
	}
	d.index.seen[n] = true
	b := d.in.scratch.dir
	at, err := d.load(d.in.scratch, es, int64(n)*d.v.s.blockSize)
	if err == nil {
		err = d.v.verify(b, at, stampDA, d.in.number)
	}
	if err != nil {
		return fmt.Errorf("block %d: %w", n, err)
	}
	counts, first := 12, 16
	if d.v.s.v5 {
		counts, first = 56, 64
	}
	count, magic := int(be.Uint16(b[counts:])), be.Uint16(b[8:])
	if first+8*count > len(b) {
		return fmt.Errorf("block %d with %d entries: %w", n, count, filewatch.ErrCorrupt)
	}
	entries := b[first : first+8*count]
	switch magic {
	case dirLeaf1, dirLeafN, dirLeaf1V5, dirLeafNV5:
		return d.index.entries(entries, high)
	case daNodeMagic, daNodeMagicV5:
	default:
		return fmt.Errorf("block %d with magic %#x: %w", n, magic, filewatch.ErrCorrupt)
	}
	for entries = append([]byte(nil), entries...); len(entries) > 0; entries = entries[8:] {
		// The last is where all higher hashes are looked for too.
		if hash := be.Uint32(entries); hash > high {
			return fmt.Errorf("node %d leads up to %#x of %#x: %w", n, hash, high, filewatch.ErrCorrupt)
		} else if err := d.readIndex(es, be.Uint32(entries[4:]), depth-1, hash); err != nil {
			return err
		}
	}
	return nil
}

// indexed compares index and names once all names were read.
func (d *dirReader) indexed(es []filewatch.Extent) {
	if _, ok := blockAt(es, dirLeafOffset); ok {
		if err := d.readIndex(es, uint32(dirLeafOffset/d.v.s.blockSize), dirMaxDepth, 1<<32-1); err != nil {
			d.Bad("index: %w", err)
			return
		}
	}
	if d.index.names != d.index.leaves && !d.index.unsure {
		d.Bad("names and their index differ, so the guest's kernel finds others than are listed: %w", filewatch.ErrCorrupt)
	}
}
