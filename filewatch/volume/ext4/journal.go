package ext4

import (
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

var be = binary.BigEndian

// Structures of jbd2: Documentation/filesystems/ext4/journal.rst and
// include/linux/jbd2.h (6.12). All big-endian.
const (
	journalMagic = 0xC03B3998

	blockDescriptor = 1
	blockCommit     = 2
	blockSuperV1    = 3
	blockSuperV2    = 4
	blockRevoke     = 5

	journalCompatChecksum = 0x1

	journalRevoke      = 0x01
	journal64Bit       = 0x02
	journalAsyncCommit = 0x04
	journalCsumV2      = 0x08
	journalCsumV3      = 0x10
	journalFastCommit  = 0x20

	journalKnown = journalRevoke | journal64Bit | journalAsyncCommit | journalCsumV2 | journalCsumV3 | journalFastCommit

	tagEscape   = 0x1
	tagSameUUID = 0x2
	tagLast     = 0x8
)

// journal is the log of an internal journal inode.
type journal struct {
	v         *Volume
	where     filewatch.Content // of the journal inode
	bs        int64
	length    uint32 // 0x10: blocks in the journal inode
	first     uint32 // 0x14: first block of the log
	last      uint32 // one past the last block of the log
	fcFirst   uint32 // first block of the fast-commit area, 0 for none
	sequence  uint32 // 0x18
	start     uint32 // 0x1C: where the log starts, 0 when it is empty
	compat    uint32 // 0x24
	incompat  uint32 // 0x28
	seed      uint32
	checksums bool // version 2 or 3

	buf  []byte
	data []byte
}

// openJournal reads the journal's superblock. The journal inode is read from
// the device itself: it is never journaled.
func openJournal(v *Volume) (*journal, error) {
	obj, where, err := v.Object(uint64(v.s.journalInode))
	if err != nil {
		return nil, fmt.Errorf("journal inode %d: %w", v.s.journalInode, err)
	}
	bs := v.s.blockSize
	j := &journal{v: v, where: where, bs: bs, buf: make([]byte, bs), data: make([]byte, bs)}
	j.length = uint32(min(obj.Size/bs, 1<<31))
	if err := j.read(0, j.buf); err != nil {
		return nil, err
	}
	return j, j.parseSuper(j.buf)
}

func (j *journal) parseSuper(b []byte) error {
	kind := be.Uint32(b[4:])
	if be.Uint32(b) != journalMagic || kind != blockSuperV1 && kind != blockSuperV2 {
		return fmt.Errorf("journal superblock magic %#x, type %d: %w", be.Uint32(b), kind, filewatch.ErrCorrupt)
	}
	length := be.Uint32(b[0x10:])
	j.first, j.sequence, j.start = be.Uint32(b[0x14:]), be.Uint32(b[0x18:]), be.Uint32(b[0x1C:])
	if kind == blockSuperV2 {
		j.compat, j.incompat = be.Uint32(b[0x24:]), be.Uint32(b[0x28:])
	}
	if be.Uint32(b[0xC:]) != uint32(j.bs) || length > j.length || j.first == 0 || j.first >= length || j.start >= length {
		return fmt.Errorf("journal of %d blocks of %d bytes, log from %d, start %d: %w", length, be.Uint32(b[0xC:]), j.first, j.start, filewatch.ErrCorrupt)
	}
	if unknown := j.incompat &^ journalKnown; unknown != 0 {
		return fmt.Errorf("journal features %#x: %w", unknown, filewatch.ErrNotSupported)
	}
	j.length, j.last = length, length
	j.seed = crc(^uint32(0), b[0x30:0x40])
	j.checksums = j.incompat&(journalCsumV2|journalCsumV3) != 0
	if j.checksums {
		stored := be.Uint32(b[0xFC:])
		sum := crc(crc(^uint32(0), b[:0xFC]), zero4[:])
		if sum = crc(sum, b[0x100:0x400]); sum != stored {
			return fmt.Errorf("journal superblock checksum %#x, stored %#x: %w", sum, stored, filewatch.ErrCorrupt)
		}
	}
	if j.incompat&journalFastCommit != 0 {
		j.fastArea(be.Uint32(b[0x54:]))
	}
	return nil
}

// fastArea splits the fast-commit blocks off the end of the log
// (jbd2: journal_load_superblock).
func (j *journal) fastArea(blocks uint32) {
	if blocks == 0 {
		blocks = 256
	}
	const least = 1024 // JBD2_MIN_JOURNAL_BLOCKS
	if j.last >= blocks && j.last-blocks >= least {
		j.last -= blocks
	}
	j.fcFirst = j.last + 1
}

// read reads block n of the journal inode.
func (j *journal) read(n uint32, b []byte) error {
	at, err := j.block(n)
	if err != nil {
		return err
	}
	if _, err := j.v.dev.dev.ReadAt(b, int64(at)*j.bs); err != nil {
		return fmt.Errorf("read journal block %d: %w", n, err)
	}
	return nil
}

// block is the volume's block behind block n of the journal.
func (j *journal) block(n uint32) (uint64, error) {
	off := int64(n) * j.bs
	i := findExtent(j.where.Extents, off)
	if i < 0 || j.where.Extents[i].Physical < 0 {
		return 0, fmt.Errorf("journal block %d is not mapped: %w", n, filewatch.ErrCorrupt)
	}
	e := j.where.Extents[i]
	return uint64((e.Physical + off - e.Logical) / j.bs), nil
}

// next is the block of the log that follows n, around its end.
func (j *journal) next(n uint32) uint32 {
	if n++; n >= j.last {
		return j.first
	}
	return n
}

// tag is one entry of a descriptor block: where the following data block goes.
type tag struct {
	block uint64
	flags uint32
	sum   uint32
}

// tags decodes a descriptor block.
func (j *journal) tags(b []byte) []tag {
	end := len(b)
	if j.checksums {
		end -= 4
	}
	size := j.tagSize()
	var out []tag
	for at := 12; at+size <= end; {
		e := b[at:]
		t := tag{block: uint64(be.Uint32(e))}
		if j.incompat&journalCsumV3 != 0 {
			t.flags, t.sum = be.Uint32(e[4:]), be.Uint32(e[12:])
		} else {
			t.sum, t.flags = uint32(be.Uint16(e[4:])), uint32(be.Uint16(e[6:]))
		}
		if j.incompat&journal64Bit != 0 {
			t.block |= uint64(be.Uint32(e[8:])) << 32
		}
		out = append(out, t)
		if at += size; t.flags&tagSameUUID == 0 {
			at += 16
		}
		if t.flags&tagLast != 0 {
			break
		}
	}
	return out
}

// tagSize is journal_tag_bytes.
func (j *journal) tagSize() int {
	if j.incompat&journalCsumV3 != 0 {
		return 16
	}
	size := 8
	if j.incompat&journalCsumV2 != 0 {
		size += 2
	}
	if j.incompat&journal64Bit != 0 {
		size += 4
	}
	return size
}

// tailSum verifies the checksum at the end of a descriptor or revoke block.
func (j *journal) tailSum(b []byte) bool {
	n := len(b) - 4
	return !j.checksums || crc(crc(j.seed, b[:n]), zero4[:]) == be.Uint32(b[n:])
}

// commitSum verifies a commit block (0x10: h_chksum[0]).
func (j *journal) commitSum(b []byte) bool {
	if !j.checksums {
		return true
	}
	sum := crc(crc(j.seed, b[:0x10]), zero4[:])
	return crc(sum, b[0x14:]) == be.Uint32(b[0x10:])
}

// dataSum verifies a data block against its tag.
func (j *journal) dataSum(t tag, sequence uint32, b []byte) bool {
	if !j.checksums {
		return true
	}
	var seq [4]byte
	be.PutUint32(seq[:], sequence)
	sum := crc(crc(j.seed, seq[:]), b)
	if j.incompat&journalCsumV3 != 0 {
		return sum == t.sum
	}
	return sum&0xFFFF == t.sum
}
