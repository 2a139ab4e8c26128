package ext4

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

var le = binary.LittleEndian

// Feature bits: Documentation/filesystems/ext4/super.rst, "feature sets".
const (
	compatJournal    = 0x0004
	compatDirIndex   = 0x0020
	compatSparse2    = 0x0200
	compatFastCommit = 0x0400
	compatOrphanFile = 0x1000

	incompatCompression = 0x00001
	incompatFiletype    = 0x00002
	incompatRecover     = 0x00004
	incompatJournalDev  = 0x00008
	incompatMetaBG      = 0x00010
	incompatExtents     = 0x00040
	incompat64Bit       = 0x00080
	incompatMMP         = 0x00100
	incompatFlexBG      = 0x00200
	incompatEAInode     = 0x00400
	incompatCsumSeed    = 0x02000
	incompatLargeDir    = 0x04000
	incompatInlineData  = 0x08000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000

	roSparseSuper  = 0x0001
	roLargeFile    = 0x0002
	roBtreeDir     = 0x0004
	roHugeFile     = 0x0008
	roGDTCsum      = 0x0010
	roBigalloc     = 0x0200
	roMetadataCsum = 0x0400
	roProject      = 0x2000
)

const incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit |
	incompatMMP | incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData |
	incompatEncrypt | incompatCasefold

var incompatNames = map[uint32]string{
	incompatCompression: "compression", incompatJournalDev: "journal device", 0x1000: "dirdata",
}

// The superblock is 1024 bytes at offset 1024.
const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53
)

// super is what is needed of struct ext4_super_block. Offsets are those of the
// documentation's table.
type super struct {
	inodes, blocks     uint64 // 0x0, 0x4 + 0x150
	firstData          uint32 // 0x14
	blockSize          int64  // 1024 << 0x18
	clusterSize        int64  // with bigalloc 1024 << 0x1C
	perGroup           uint32 // 0x20
	inodesPerGroup     uint32 // 0x28
	firstInode         uint32 // 0x54
	inodeSize          int    // 0x58
	compat, incompat   uint32 // 0x5C, 0x60
	roCompat           uint32 // 0x64
	uuid               [16]byte
	label              string
	reservedGDT        uint16 // 0xCE
	journalInode       uint32 // 0xE0
	journalDev         uint32 // 0xE4
	descSize           int    // 0xFE
	firstMetaBG        uint32 // 0x104
	backupGroups       [2]uint32
	quotaInodes        [3]uint32 // 0x240, 0x244, 0x26C
	orphanFile         uint32    // 0x280
	hashSeed           [4]uint32 // 0xEC
	hashSigns          uint32    // of 0x160
	seed               uint32    // of metadata checksums: 0x270 or from the UUID
	groups             uint32
	hasCsum, hasGDTSum bool
}

// readSuper reads and validates the superblock as the kernel's mount does.
func readSuper(r io.ReaderAt, size int64) (*super, error) {
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, superOffset); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	if le.Uint16(b[0x38:]) != superMagic {
		return nil, fmt.Errorf("superblock magic %#x: %w", le.Uint16(b[0x38:]), filewatch.ErrCorrupt)
	}
	s := &super{
		inodes: uint64(le.Uint32(b)), blocks: uint64(le.Uint32(b[4:])), firstData: le.Uint32(b[0x14:]),
		perGroup: le.Uint32(b[0x20:]), inodesPerGroup: le.Uint32(b[0x28:]),
		firstInode: 11, inodeSize: 128, descSize: 32,
		label: strings.TrimRight(string(b[0x78:0x88]), "\x00"),
	}
	copy(s.uuid[:], b[0x68:])
	if le.Uint32(b[0x4C:]) > 0 { // EXT4_DYNAMIC_REV
		s.firstInode, s.inodeSize = le.Uint32(b[0x54:]), int(le.Uint16(b[0x58:]))
	}
	s.extended(b)
	if err := s.features(); err != nil {
		return nil, err
	}
	if s.hasCsum {
		if sum := crc(^uint32(0), b[:0x3FC]); sum != le.Uint32(b[0x3FC:]) {
			return nil, fmt.Errorf("superblock checksum %#x, stored %#x: %w", sum, le.Uint32(b[0x3FC:]), filewatch.ErrCorrupt)
		}
	}
	return s, s.geometry(le.Uint32(b[0x18:]), le.Uint32(b[0x1C:]), size)
}

// extended reads what revision 1 added. The kernel goes by these fields in
// revision 0 too, and only warns ("feature flags set on rev 0 fs").
func (s *super) extended(b []byte) {
	s.compat, s.incompat, s.roCompat = le.Uint32(b[0x5C:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	s.reservedGDT = le.Uint16(b[0xCE:])
	s.journalInode, s.journalDev = le.Uint32(b[0xE0:]), le.Uint32(b[0xE4:])
	for i := range s.hashSeed {
		s.hashSeed[i] = le.Uint32(b[0xEC+4*i:])
	}
	s.hashSigns = le.Uint32(b[0x160:]) & (signsSigned | signsUnsigned)
	s.firstMetaBG = le.Uint32(b[0x104:])
	s.backupGroups = [2]uint32{le.Uint32(b[0x24C:]), le.Uint32(b[0x250:])}
	s.quotaInodes = [3]uint32{le.Uint32(b[0x240:]), le.Uint32(b[0x244:]), le.Uint32(b[0x26C:])}
	if s.compat&compatOrphanFile != 0 {
		s.orphanFile = le.Uint32(b[0x280:])
	}
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		s.descSize = int(le.Uint16(b[0xFE:]))
	}
	s.hasCsum = s.roCompat&roMetadataCsum != 0
	s.hasGDTSum = s.roCompat&roGDTCsum != 0
	s.seed = crc(^uint32(0), s.uuid[:])
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(b[0x270:])
	}
}

func (s *super) features() error {
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if s.incompat&bit&^uint32(incompatKnown) == 0 {
			continue
		}
		name := incompatNames[bit]
		if name == "" {
			name = fmt.Sprintf("feature %#x", bit)
		}
		return fmt.Errorf("incompatible feature %s: %w", name, filewatch.ErrNotSupported)
	}
	return nil
}

// needsReplay says whether the kernel replays the journal before it reads on.
// Without the feature of a journal it looks at none, whatever else stands in the
// superblock (ext4_fill_super; e2fsck takes the mark away).
func (s *super) needsReplay() bool {
	return s.incompat&incompatRecover != 0 && s.compat&compatJournal != 0
}

// geometry checks the sizes against each other and the device, as
// ext4_fill_super does (fs/ext4/super.c, 6.12).
func (s *super) geometry(logBlock, logCluster uint32, size int64) error {
	if logBlock > 6 {
		return fmt.Errorf("block size 1024<<%d: %w", logBlock, filewatch.ErrCorrupt)
	}
	s.blockSize = 1024 << logBlock
	s.clusterSize = s.blockSize
	if s.roCompat&roBigalloc != 0 {
		if logCluster < logBlock || logCluster > 30-10 { // EXT4_MAX_CLUSTER_LOG_SIZE
			return fmt.Errorf("cluster size 1024<<%d: %w", logCluster, filewatch.ErrCorrupt)
		}
		s.clusterSize = 1024 << logCluster
	}
	bits := uint32(s.blockSize * 8)
	if s.roCompat&roBigalloc != 0 {
		bits *= 1 << 16 // perGroup counts blocks, the bitmap clusters
	}
	switch {
	case s.inodeSize < 128 || int64(s.inodeSize) > s.blockSize || s.inodeSize&(s.inodeSize-1) != 0:
		return fmt.Errorf("inode size %d: %w", s.inodeSize, filewatch.ErrCorrupt)
	case s.descSize < 32 || int64(s.descSize) > s.blockSize || s.descSize&(s.descSize-1) != 0:
		return fmt.Errorf("group descriptor size %d: %w", s.descSize, filewatch.ErrCorrupt)
	case s.perGroup == 0 || s.perGroup > bits:
		return fmt.Errorf("%d blocks per group: %w", s.perGroup, filewatch.ErrCorrupt)
	case s.inodesPerGroup == 0 || int64(s.inodesPerGroup) > s.blockSize*8:
		return fmt.Errorf("%d inodes per group: %w", s.inodesPerGroup, filewatch.ErrCorrupt)
	case s.blocks > uint64(size/s.blockSize) || s.blocks <= uint64(s.firstData):
		return fmt.Errorf("%d blocks of %d bytes on a device of %d: %w", s.blocks, s.blockSize, size, filewatch.ErrCorrupt)
	}
	groups := (s.blocks - uint64(s.firstData) + uint64(s.perGroup) - 1) / uint64(s.perGroup)
	if groups*uint64(s.inodesPerGroup) != s.inodes {
		return fmt.Errorf("%d groups of %d inodes are not %d: %w", groups, s.inodesPerGroup, s.inodes, filewatch.ErrCorrupt)
	}
	s.groups = uint32(groups)
	return nil
}

// kind names the family as blkid(8) does: by the features its kernel driver
// would have to know.
func (s *super) kind() string {
	const ext2In, ext2RO = incompatFiletype | incompatMetaBG, roSparseSuper | roLargeFile | roBtreeDir
	old := s.incompat&^uint32(ext2In|incompatRecover) == 0 && s.roCompat&^uint32(ext2RO) == 0
	switch {
	case old && s.compat&compatJournal != 0:
		return "ext3"
	case old && s.incompat&incompatRecover == 0:
		return "ext2"
	}
	return "ext4"
}

func (s *super) uuidString() string {
	h := hex.EncodeToString(s.uuid[:])
	if strings.Trim(h, "0") == "" {
		return ""
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
