package volume

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// A signature tells a kind of volume by bytes at an offset. The list is in the
// order of trust: what takes over a whole device comes before what may be left
// from its earlier life. Sources: libblkid's prober of each family
// (util-linux 2.38, libblkid/src/superblocks).
type signature struct {
	kind   string
	off    int64
	magic  string
	reason string
	uuid   int64 // offset of a binary UUID, 0 for none
}

var signatures = []signature{
	{"crypto_LUKS", 0, "LUKS\xba\xbe", "encrypted with LUKS", 0},
	{"BitLocker", 3, "-FVE-FS-", "encrypted with BitLocker", 0},
	{"LVM2_member", 536, "LVM2 001", "physical volume of LVM2", 0},
	{"LVM2_member", 24, "LVM2 001", "physical volume of LVM2", 0},
	{"LVM2_member", 1048, "LVM2 001", "physical volume of LVM2", 0},
	{"LVM2_member", 1560, "LVM2 001", "physical volume of LVM2", 0},
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9", "member of an MD RAID", 4096 + 16},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9", "member of an MD RAID", 16},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache device", 4096 + 40},
	{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "no reader for bcachefs", 4096 + 56},
	{"stratis", 516, "!Stra0tis\x86\xff\x02^\x41rh", "member of a Stratis pool", 0},
	{"vdo", 0, "dmvdo001", "VDO device", 0},
	{"DM_verity_hash", 0, "verity\x00\x00", "dm-verity hash device", 16},
	{"DM_integrity", 0, "integrt\x00", "dm-integrity device", 0},
	{"ceph_bluestore", 0, "bluestore block device", "Ceph BlueStore device", 0},
	{"xfs", 0, "XFSB", "", 32},
	{"ext4", 1024 + 56, "\x53\xef", "", 1024 + 104},
	{"btrfs", 0x10040, "_BHRfS_M", "no reader for btrfs", 0x10020},
	{"ntfs", 3, "NTFS    ", "no reader for NTFS", 0},
	{"ReFS", 3, "\x00\x00\x00ReFS\x00", "no reader for ReFS", 0},
	{"exfat", 3, "EXFAT   ", "no reader for exFAT", 0},
	{"f2fs", 1024, "\x10\x20\xf5\xf2", "no reader for F2FS", 1024 + 108},
	// Linux mounts by the second one where the first is none (fs/f2fs/super.c).
	{"f2fs", 4096 + 1024, "\x10\x20\xf5\xf2", "no reader for F2FS", 4096 + 1024 + 108},
	{"squashfs", 0, "hsqs", "no reader for squashfs", 0},
	{"squashfs3", 0, "sqsh", "no reader for squashfs", 0},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0", "no reader for EROFS", 1024 + 48},
	{"reiserfs", 65536 + 52, "ReIsEr", "no reader for ReiserFS", 65536 + 84},
	{"reiser4", 65536, "ReIsEr4", "no reader for Reiser4", 65536 + 20},
	{"jfs", 32768, "JFS1", "no reader for JFS", 32768 + 136},
	{"nilfs2", 1024 + 6, "\x34\x34", "no reader for NILFS2", 1024 + 152},
	{"gfs2", 65536, "\x01\x16\x19\x70\x00\x00\x00\x01", "no reader for GFS2", 0},
	// In the third block, of 512 bytes to 4 KiB (fs/ocfs2/ocfs2_fs.h).
	{"ocfs2", 1024, "OCFSV2", "no reader for OCFS2", 1024 + 0x150},
	{"ocfs2", 2048, "OCFSV2", "no reader for OCFS2", 2048 + 0x150},
	{"ocfs2", 4096, "OCFSV2", "no reader for OCFS2", 4096 + 0x150},
	{"ocfs2", 8192, "OCFSV2", "no reader for OCFS2", 8192 + 0x150},
	{"apfs", 32, "NXSB", "no reader for APFS", 72},
	{"hfsplus", 1024, "H+\x00\x04", "no reader for HFS+", 0},
	{"hfsx", 1024, "HX\x00\x05", "no reader for HFSX", 0},
	{"VMFS_volume_member", 0x100000, "\x0d\xd0\x01\xc0", "no reader for VMFS", 0},
	{"iso9660", 32769, "CD001", "no reader for ISO 9660", 0},
	{"udf", 32769, "BEA01", "no reader for UDF", 0},
	{"cramfs", 0, "\x45\x3d\xcd\x28", "no reader for cramfs", 0},
	{"romfs", 0, "-rom1fs-", "no reader for romfs", 0},
	{"ufs", 65536 + 1372, "\x19\x01\x54\x19", "no reader for UFS2", 0},
	{"ufs", 8192 + 1372, "\x54\x19\x01\x00", "no reader for UFS", 0},
	{"minix", 1024 + 24, "\x5a\x4d", "no reader for Minix", 0},
	{"minix", 1024 + 16, "\x7f\x13", "no reader for Minix", 0},
	{"minix", 1024 + 16, "\x8f\x13", "no reader for Minix", 0},
	{"minix", 1024 + 16, "\x68\x24", "no reader for Minix", 0},
	{"minix", 1024 + 16, "\x78\x24", "no reader for Minix", 0},
	{"bfs", 0, "\xce\xfa\xad\x1b", "no reader for BFS", 0},
}

// The start of a device has all signatures, the first few KiB those of nearly all
// that is met.
const (
	headSize  = 0x100000 + 512
	firstSize = 8 << 10
)

// kind recognizes what is on a device: the spelling of blkid, why it cannot be
// read ("" when it can), and the UUID. kind is "" when nothing is recognized.
func kind(r io.ReaderAt, size int64) (name, reason, uuid string, err error) {
	head, err := headOf(r, min(firstSize, size))
	if err != nil {
		return "", "", "", err
	}
	if md, ok := mdAtEnd(r, size); ok {
		return "linux_raid_member", "member of an MD RAID", md, nil
	}
	for _, s := range signatures {
		if s.off+int64(len(s.magic)) > int64(len(head)) && len(head) == firstSize {
			if head, err = headOf(r, min(headSize, size)); err != nil {
				return "", "", "", err
			}
		}
		if hasAt(head, s.off, s.magic) {
			if s.kind == "xfs" && superblockIn(head) {
				return s.kind, "has the superblock of an ext2, ext3 or ext4 file system too: which of them the guest mounts cannot be told", "", nil
			}
			return s.kind, s.reason, uuidAt(head, s), nil
		}
	}
	if isFAT(head) {
		return "vfat", "", "", nil
	}
	if k := swapKind(head); k != "" {
		if mountsAsFAT(head) {
			return "vfat", "has the header of swap space too: which of them the guest uses cannot be told", "", nil
		}
		return k, "swap space", uuidAt(head, signature{uuid: 1024 + 12}), nil
	}
	if isZFS(head) {
		return "zfs_member", "member of a ZFS pool", "", nil
	}
	if len(head) >= 512 && head[510] == 0x55 && head[511] == 0xAA {
		return "", "boot sector without a known file system", "", nil
	}
	return "", "no known file system", "", nil
}

func headOf(r io.ReaderAt, size int64) ([]byte, error) {
	head := make([]byte, size)
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the first %d bytes: %w", len(head), err)
	}
	return head, nil
}

func hasAt(b []byte, off int64, magic string) bool {
	return off+int64(len(magic)) <= int64(len(b)) && string(b[off:off+int64(len(magic))]) == magic
}

func uuidAt(head []byte, s signature) string {
	if s.kind == "crypto_LUKS" && len(head) > 208 {
		return string(bytes.TrimRight(head[168:208], "\x00"))
	}
	if s.uuid == 0 || s.uuid+16 > int64(len(head)) {
		return ""
	}
	return formatUUID(head[s.uuid : s.uuid+16])
}

// formatUUID writes 16 bytes in order (RFC 9562); "" for none.
func formatUUID(b []byte) string {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// mdAtEnd finds the MD superblocks that leave the start of the device to what
// the array holds (md.4, "Superblocks"; version 0.90 and 1.0).
func mdAtEnd(r io.ReaderAt, size int64) (string, bool) {
	b := make([]byte, 4096)
	for _, off := range []int64{(size &^ 0xFFFF) - 0x10000, (size - 8192) &^ 0xFFF} {
		if off <= 0 {
			continue
		}
		if _, err := r.ReadAt(b, off); err != nil && err != io.EOF {
			continue
		}
		if binary.LittleEndian.Uint32(b) == 0xa92b4efc && (binary.LittleEndian.Uint32(b[4:]) <= 1) {
			return "", true
		}
	}
	return "", false
}

// isFAT accepts a boot sector as the specification has it.
func isFAT(b []byte) bool {
	return mountsAsFAT(b) && b[510] == 0x55 && b[511] == 0xAA && (b[0] == 0xEB || b[0] == 0xE9)
}

// mountsAsFAT accepts what the kernel's fat_fill_super accepts as a boot sector; it
// wants neither the jump at its start nor the signature at its end.
func mountsAsFAT(b []byte) bool {
	if len(b) < 512 {
		return false
	}
	sector := binary.LittleEndian.Uint16(b[11:])
	power := func(n int) bool { return n > 0 && n&(n-1) == 0 }
	media := b[21]
	return power(int(sector)) && sector >= 512 && sector <= 4096 && power(int(b[13])) &&
		binary.LittleEndian.Uint16(b[14:]) > 0 && b[16] > 0 && (media >= 0xF8 || media == 0xF0)
}

// swapKind finds the swap header at the end of the first page, whose size is
// the guest's.
func swapKind(b []byte) string {
	for _, page := range []int{4096, 8192, 16384, 32768, 65536} {
		switch {
		case hasAt(b, int64(page-10), "SWAPSPACE2"), hasAt(b, int64(page-10), "SWAP-SPACE"):
			return "swap"
		case hasAt(b, int64(page-10), "S1SUSPEND\x00"), hasAt(b, int64(page-10), "LINHIB0001"):
			return "swsuspend"
		}
	}
	return ""
}

// isZFS looks for uberblocks in the first label (OpenZFS on-disk format, 1.2).
func isZFS(b []byte) bool {
	for off := 128 << 10; off+8 <= len(b) && off < 256<<10; off += 1 << 10 {
		m := b[off:]
		if binary.LittleEndian.Uint64(m) == 0x00bab10c || binary.BigEndian.Uint64(m) == 0x00bab10c {
			return true
		}
	}
	return false
}
