package xfs

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

var (
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Version and feature bits (fs/xfs/libxfs/xfs_format.h, 6.12).
const (
	superMagic = 0x58465342 // XFSB

	versionMask     = 0x000f
	versionDir2     = 0x2000
	versionMore     = 0x8000
	versionCaseless = 0x4000 // XFS_SB_VERSION_BORGBIT
	version2Ft      = 0x0200

	incompatFtype       = 0x001
	incompatSparse      = 0x002
	incompatMetaUUID    = 0x004
	incompatBigtime     = 0x008
	incompatNeedsRepair = 0x010
	incompatNrext64     = 0x020
	incompatExchange    = 0x040
	incompatParent      = 0x080

	incompatKnown = incompatFtype | incompatSparse | incompatMetaUUID | incompatBigtime | incompatNeedsRepair |
		incompatNrext64 | incompatExchange | incompatParent
)

var incompatNames = map[uint32]string{0x100: "metadir", 0x200: "zoned", 0x400: "zone_gaps"}

// super is what is needed of struct xfs_dsb; offsets in comments.
type super struct {
	blockSize     int64  // 4
	blocks        uint64 // 8
	uuid          [16]byte
	metaUUID      [16]byte // what blocks carry: 248, or the same
	logStart      uint64   // 48
	root          uint64   // 56
	hidden        [6]uint64
	agBlocks      uint32 // 84
	agCount       uint32 // 88
	logBlocks     uint32 // 96
	version       uint16 // 100
	sector        int64  // 102
	inodeSize     int64  // 104
	label         string // 108
	inodesBlkLog  uint   // 123
	agBlkLog      uint   // 124
	dirBlkLog     uint   // 192
	logSector     uint16 // 194
	features2     uint32 // 200
	incompat      uint32 // 216
	v5            bool
	ftype, sparse bool
}

// readSuper reads and validates the superblock.
func readSuper(r *overlay, size int64) (*super, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	s := &super{
		blockSize: int64(be.Uint32(b[4:])), blocks: be.Uint64(b[8:]), logStart: be.Uint64(b[48:]), root: be.Uint64(b[56:]),
		hidden:   [6]uint64{be.Uint64(b[64:]), be.Uint64(b[72:]), be.Uint64(b[160:]), be.Uint64(b[168:])},
		agBlocks: be.Uint32(b[84:]), agCount: be.Uint32(b[88:]), logBlocks: be.Uint32(b[96:]), version: be.Uint16(b[100:]),
		sector: int64(be.Uint16(b[102:])), inodeSize: int64(be.Uint16(b[104:])), label: strings.TrimRight(string(b[108:120]), "\x00"),
		inodesBlkLog: uint(b[123]), agBlkLog: uint(b[124]), dirBlkLog: uint(b[192]), logSector: be.Uint16(b[194:]), features2: be.Uint32(b[200:]),
	}
	copy(s.uuid[:], b[32:])
	s.metaUUID = s.uuid
	if be.Uint32(b) != superMagic {
		return nil, fmt.Errorf("superblock magic %#x: %w", be.Uint32(b), filewatch.ErrCorrupt)
	}
	if err := s.features(b); err != nil {
		return nil, err
	}
	if s.v5 && !r.changed(0, 512) && !superSum(b, s.sector) {
		return nil, fmt.Errorf("superblock checksum: %w", filewatch.ErrCorrupt)
	}
	return s, s.geometry(size)
}

// features decides whether this reader knows the format.
func (s *super) features(b []byte) error {
	switch v := s.version & versionMask; v {
	case 4:
		if s.version&versionDir2 == 0 {
			return fmt.Errorf("version 1 directories: %w", filewatch.ErrNotSupported)
		}
		s.ftype = s.version&versionMore != 0 && s.features2&version2Ft != 0
		return nil
	case 5:
	default:
		return fmt.Errorf("version %d: %w", v, filewatch.ErrNotSupported)
	}
	s.v5 = true
	s.incompat = be.Uint32(b[216:])
	s.hidden[4] = be.Uint64(b[232:])
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if s.incompat&bit&^uint32(incompatKnown) != 0 {
			name := incompatNames[bit]
			if name == "" {
				name = fmt.Sprintf("%#x", bit)
			}
			return fmt.Errorf("incompatible feature %s: %w", name, filewatch.ErrNotSupported)
		}
	}
	if s.incompat&incompatNeedsRepair != 0 {
		return fmt.Errorf("marked as needing repair: %w", filewatch.ErrCorrupt)
	}
	if s.incompat&incompatMetaUUID != 0 {
		copy(s.metaUUID[:], b[248:])
	}
	s.ftype, s.sparse = s.incompat&incompatFtype != 0, s.incompat&incompatSparse != 0
	return nil
}

// superSum verifies the superblock, whose checksum at 224 covers a sector; what
// is beyond the part in hand is zero.
func superSum(b []byte, sector int64) bool {
	sum := crc32.Checksum(b[:224], castagnoli)
	sum = crc32.Update(sum, castagnoli, zero4[:])
	sum = crc32.Update(sum, castagnoli, b[228:])
	if more := sector - int64(len(b)); more > 0 {
		sum = crc32.Update(sum, castagnoli, make([]byte, more))
	}
	return sum == binary.LittleEndian.Uint32(b[224:])
}

// geometry checks the sizes against each other and the device
// (xfs_validate_sb_common).
func (s *super) geometry(size int64) error {
	power := func(n, low, high int64) bool { return n >= low && n <= high && n&(n-1) == 0 }
	switch {
	case !power(s.blockSize, 512, 65536), !power(s.sector, 512, 32768), !power(s.inodeSize, 256, 2048), s.inodeSize > s.blockSize:
		return fmt.Errorf("block %d, sector %d, inode %d bytes: %w", s.blockSize, s.sector, s.inodeSize, filewatch.ErrCorrupt)
	case s.blocks == 0 || s.blocks > uint64(size/s.blockSize):
		return fmt.Errorf("%d blocks of %d bytes on a device of %d: %w", s.blocks, s.blockSize, size, filewatch.ErrCorrupt)
	case s.agBlkLog > 31 || s.agBlocks == 0 || uint64(s.agBlocks) > 1<<s.agBlkLog || uint64(s.agCount) != (s.blocks+uint64(s.agBlocks)-1)/uint64(s.agBlocks):
		return fmt.Errorf("%d groups of %d blocks for %d: %w", s.agCount, s.agBlocks, s.blocks, filewatch.ErrCorrupt)
	case s.inodesBlkLog > 8 || s.inodeSize<<s.inodesBlkLog != s.blockSize:
		return fmt.Errorf("2^%d inodes of %d bytes in a block of %d: %w", s.inodesBlkLog, s.inodeSize, s.blockSize, filewatch.ErrCorrupt)
	case s.dirBlkLog > 7 || s.blockSize<<s.dirBlkLog > 65536:
		return fmt.Errorf("directory blocks of 2^%d blocks: %w", s.dirBlkLog, filewatch.ErrCorrupt)
	}
	return nil
}

// fsb is the volume offset of a file-system block number, which joins group and
// block in the group.
func (s *super) fsb(n uint64) (int64, error) {
	ag, block := n>>s.agBlkLog, n&(1<<s.agBlkLog-1)
	if ag >= uint64(s.agCount) || block >= uint64(s.agBlocks) || ag*uint64(s.agBlocks)+block >= s.blocks {
		return 0, fmt.Errorf("block %d of group %d: %w", block, ag, filewatch.ErrCorrupt)
	}
	return s.agb(uint32(ag), uint32(block)), nil
}

// agb is the volume offset of a block of a group.
func (s *super) agb(ag, block uint32) int64 {
	return (int64(ag)*int64(s.agBlocks) + int64(block)) * s.blockSize
}

// inodeAt is the volume offset of an inode.
func (s *super) inodeAt(n uint64) (int64, error) {
	at, err := s.fsb(n >> s.inodesBlkLog)
	if err != nil {
		return 0, fmt.Errorf("inode %d: %w", n, err)
	}
	return at + int64(n&(1<<s.inodesBlkLog-1))*s.inodeSize, nil
}

// place is inodeAt for the first inode of a chunk, of which not every inode need be
// within the volume.
func (s *super) place(n uint64) int64 {
	block := n >> s.inodesBlkLog
	return s.agb(uint32(block>>s.agBlkLog), uint32(block&(1<<s.agBlkLog-1))) + int64(n&(1<<s.inodesBlkLog-1))*s.inodeSize
}

// groupOf is the group that an inode's number names.
func (s *super) groupOf(n uint64) uint32 { return uint32(n >> (s.agBlkLog + s.inodesBlkLog)) }

// own says whether an inode is the file system's and has no name.
func (s *super) own(n uint64) bool {
	for _, h := range s.hidden {
		if n == h && h != s.root {
			return true
		}
	}
	return false
}

func (s *super) uuidString() string {
	h := hex.EncodeToString(s.uuid[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
