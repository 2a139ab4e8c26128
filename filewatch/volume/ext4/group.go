package ext4

import (
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Group descriptor flags (0x12).
const (
	groupInodeUninit = 0x1
)

// group is what is needed of struct ext4_group_desc.
type group struct {
	table  uint64 // first block of the inode table: 0x8, 0x28
	unused uint32 // inodes at the end of the table never used: 0x1C, 0x32
	bad    error  // the descriptor is damaged
}

// readGroups reads all descriptors. One that is damaged keeps its error.
func readGroups(r io.ReaderAt, s *super) ([]group, error) {
	if int64(s.groups)*int64(s.descSize) > 1<<30 {
		return nil, fmt.Errorf("%d group descriptors: %w", s.groups, filewatch.ErrNotSupported)
	}
	out := make([]group, s.groups)
	block := make([]byte, s.blockSize)
	per := uint32(s.blockSize) / uint32(s.descSize)
	for first := uint32(0); first < s.groups; first += per {
		at := s.descBlock(first / per)
		_, err := r.ReadAt(block, int64(at)*s.blockSize)
		for i := uint32(0); i < per && first+i < s.groups; i++ {
			g := &out[first+i]
			if err != nil {
				g.bad = fmt.Errorf("read descriptor of group %d: %w", first+i, err)
				continue
			}
			*g = s.parseGroup(first+i, block[int(i)*s.descSize:][:s.descSize])
		}
	}
	return out, nil
}

// descBlock is where the n-th block of descriptors is. With meta_bg, groups
// from firstMetaBG on keep the descriptors of a block's worth of groups in the
// first of them (ext4: descriptor_loc).
func (s *super) descBlock(n uint32) uint64 {
	if s.incompat&incompatMetaBG == 0 || n < s.firstMetaBG {
		return uint64(superOffset/s.blockSize) + 1 + uint64(n)
	}
	per := uint32(s.blockSize) / uint32(s.descSize)
	g := n * per
	at := uint64(s.firstData) + uint64(g)*uint64(s.perGroup)
	if s.hasSuper(g) {
		at++
	}
	// A 1k-block file system whose first data block is 0 (bigalloc) has the
	// primary superblock in block 1.
	if s.blockSize == 1024 && n == 0 && s.firstData == 0 {
		at++
	}
	return at
}

// hasSuper says whether a group starts with a copy of the superblock
// (ext4_bg_has_super).
func (s *super) hasSuper(g uint32) bool {
	if g == 0 {
		return true
	}
	if s.compat&compatSparse2 != 0 {
		return g == s.backupGroups[0] || g == s.backupGroups[1]
	}
	if g <= 1 || s.roCompat&roSparseSuper == 0 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		n := uint64(base)
		for n < uint64(g) {
			n *= uint64(base)
		}
		if n == uint64(g) {
			return true
		}
	}
	return false
}

func (s *super) parseGroup(n uint32, b []byte) group {
	g := group{table: uint64(le.Uint32(b[0x8:])), unused: uint32(le.Uint16(b[0x1C:]))}
	if s.incompat&incompat64Bit != 0 && s.descSize >= 64 {
		g.table |= uint64(le.Uint32(b[0x28:])) << 32
		g.unused |= uint32(le.Uint16(b[0x32:])) << 16
	}
	if !s.hasCsum && !s.hasGDTSum {
		g.unused = 0
	} else if sum := s.groupSum(n, b); sum != le.Uint16(b[0x1E:]) {
		g.bad = fmt.Errorf("descriptor of group %d: checksum %#x, stored %#x: %w", n, sum, le.Uint16(b[0x1E:]), filewatch.ErrCorrupt)
		return g
	}
	tableBlocks := (uint64(s.inodesPerGroup)*uint64(s.inodeSize) + uint64(s.blockSize) - 1) / uint64(s.blockSize)
	if g.table <= uint64(s.firstData) || g.table+tableBlocks > s.blocks || g.table+tableBlocks < g.table || g.unused > s.inodesPerGroup {
		g.bad = fmt.Errorf("descriptor of group %d: inode table at block %d, %d of its inodes unused: %w", n, g.table, g.unused, filewatch.ErrCorrupt)
	}
	if le.Uint16(b[0x12:])&groupInodeUninit != 0 && (s.hasCsum || s.hasGDTSum) {
		g.unused = s.inodesPerGroup
	}
	return g
}

// groupSum is ext4_group_desc_csum: CRC-32C with metadata_csum, else CRC-16.
func (s *super) groupSum(n uint32, b []byte) uint16 {
	if s.hasCsum {
		sum := crcU32(s.seed, n)
		sum = crc(sum, b[:0x1E])
		sum = crc(sum, zero4[:2])
		return uint16(crc(sum, b[0x20:]))
	}
	var num [4]byte
	le.PutUint32(num[:], n)
	sum := crc16(crc16(^uint16(0), s.uuid[:]), num[:])
	sum = crc16(sum, b[:0x1E])
	if s.incompat&incompat64Bit != 0 {
		sum = crc16(sum, b[0x20:])
	}
	return sum
}
