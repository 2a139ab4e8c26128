package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// scratch holds the buffers of one reader of inodes and bounds what one scan
// reads of metadata: a crafted volume can share one block among all inodes.
type scratch struct {
	v      *Volume
	blocks [maxDepth + 2][]byte
	dir    []byte
	budget int64
}

func (v *Volume) newScratch() *scratch {
	return &scratch{v: v, budget: max(1<<30, 4*int64(v.s.blocks)*v.s.blockSize)}
}

func (s *scratch) spend(n int64) error {
	if s.budget -= n; s.budget < 0 {
		return fmt.Errorf("metadata blocks are shared beyond reason: %w", filewatch.ErrCorrupt)
	}
	return nil
}

// block reads one block at a volume offset into the buffer of a depth.
func (s *scratch) block(depth int, at int64) ([]byte, error) {
	if s.blocks[depth] == nil {
		s.blocks[depth] = make([]byte, s.v.s.blockSize)
	}
	b := s.blocks[depth]
	if err := s.spend(int64(len(b))); err != nil {
		return nil, err
	}
	if _, err := s.v.dev.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read block at %#x: %w", at, err)
	}
	return b, nil
}

// stamp is where a kind of version 5 block keeps what ties it to its place.
type stamp struct {
	crc, place, uuid, owner int
}

// The stamps of the block headers (xfs_format.h, xfs_da_format.h).
var (
	stampShort  = stamp{crc: 52, place: 16, uuid: 32, owner: -1} // xfs_btree_block, 32-bit pointers
	stampLong   = stamp{crc: 64, place: 24, uuid: 40, owner: 56} // xfs_btree_block, 64-bit pointers
	stampDir    = stamp{crc: 4, place: 8, uuid: 24, owner: 40}   // xfs_dir3_blk_hdr
	stampDA     = stamp{crc: 12, place: 16, uuid: 32, owner: 48} // xfs_da3_blkinfo
	stampRemote = stamp{crc: 12, place: 40, uuid: 16, owner: 32} // xfs_attr3_rmt_hdr, xfs_dsymlink_hdr
	stampAGI    = stamp{crc: 312, place: -1, uuid: 296, owner: -1}
)

// verify checks a version 5 block against its stamp; owner is the inode it
// must belong to. A block that the log changed has no valid checksum.
func (v *Volume) verify(b []byte, at int64, st stamp, owner uint64) error {
	if !v.s.v5 {
		return nil
	}
	if len(b) < 72 {
		return fmt.Errorf("block of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	if !v.dev.changed(at, int64(len(b))) && !checksum(b, st.crc) {
		return fmt.Errorf("checksum of block at %#x: %w", at, filewatch.ErrCorrupt)
	}
	if st.place >= 0 && be.Uint64(b[st.place:]) != uint64(at/512) {
		return fmt.Errorf("block at %#x says it is at %#x: %w", at, be.Uint64(b[st.place:])*512, filewatch.ErrCorrupt)
	}
	if !bytes.Equal(b[st.uuid:st.uuid+16], v.s.metaUUID[:]) {
		return fmt.Errorf("block at %#x belongs to another file system: %w", at, filewatch.ErrCorrupt)
	}
	if st.owner >= 0 && be.Uint64(b[st.owner:]) != owner {
		return fmt.Errorf("block at %#x belongs to inode %d, not %d: %w", at, be.Uint64(b[st.owner:]), owner, filewatch.ErrCorrupt)
	}
	return nil
}

// checksum verifies a CRC-32C, little-endian at off, over the block with the
// field as zeros.
func checksum(b []byte, off int) bool {
	sum := crc32.Checksum(b[:off], castagnoli)
	sum = crc32.Update(sum, castagnoli, zero4[:])
	return crc32.Update(sum, castagnoli, b[off+4:]) == binary.LittleEndian.Uint32(b[off:])
}

var zero4 [4]byte
