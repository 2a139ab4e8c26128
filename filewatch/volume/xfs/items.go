package xfs

import (
	"bytes"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Buffer items: struct xfs_buf_log_format.
const (
	bufferInode  = 1 << 0
	bufferCancel = 1 << 1
	bufferQuota  = 1<<2 | 1<<3 | 1<<4
	bufferChunk  = 128
)

type buffer struct {
	flags uint16 // 4
	key   extentKey
	bits  []byte // 20: the chunks that are logged, 16: count of words
}

func bufferFormat(i *item) (buffer, error) {
	b := i.regions[0]
	if len(b) < 20 {
		return buffer{}, fmt.Errorf("buffer item of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	f := buffer{flags: le.Uint16(b[4:]), key: extentKey{le.Uint64(b[8:]), uint64(le.Uint16(b[6:]))}}
	words := int(le.Uint32(b[16:]))
	if words > (len(b)-20)/4 || f.key.block >= 1<<54 {
		return f, fmt.Errorf("buffer item with %d words of bitmap: %w", words, filewatch.ErrCorrupt)
	}
	f.bits = b[20 : 20+4*words]
	return f, nil
}

// buffer replays the logged chunks of a buffer (xlog_recover_buf_commit_pass2).
// Buffers of inodes carry only the list of unlinked inodes, which is not needed.
func (p *replayer) buffer(lsn uint64, i *item) error {
	f, err := bufferFormat(i)
	if err != nil {
		return err
	}
	if f.flags&bufferCancel != 0 {
		if p.cancelled[f.key]--; p.cancelled[f.key] <= 0 {
			delete(p.cancelled, f.key)
		}
		return nil
	}
	if p.cancelled[f.key] > 0 || f.flags&(bufferInode|bufferQuota) != 0 {
		return nil
	}
	at, size := int64(f.key.block)*512, int64(f.key.length)*512
	if size == 0 || at+size > int64(p.v.s.blocks)*p.v.s.blockSize {
		return fmt.Errorf("buffer at %#x of %d bytes: %w", at, size, filewatch.ErrCorrupt)
	}
	if p.v.s.v5 {
		b := make([]byte, min(size, 512))
		if err := p.read(at, b); err != nil {
			return err
		}
		if on, ok := p.blockLSN(b); ok && on >= lsn {
			return nil
		}
	}
	return p.chunks(f, i.regions[1:], at, size)
}

// chunks copies each run of logged chunks from its region.
func (p *replayer) chunks(f buffer, regions [][]byte, at, size int64) error {
	set := func(n int) bool { return n/8 < len(f.bits) && f.bits[n/8]>>(n%8)&1 != 0 }
	for n := 0; n < 8*len(f.bits); n++ {
		if !set(n) {
			continue
		}
		run := 1
		for set(n + run) {
			run++
		}
		if len(regions) == 0 {
			return fmt.Errorf("buffer at %#x: a region is missing: %w", at, filewatch.ErrCorrupt)
		}
		run = min(run, len(regions[0])/bufferChunk)
		off, length := int64(n)*bufferChunk, int64(run)*bufferChunk
		if run == 0 || off+length > size {
			return fmt.Errorf("buffer at %#x: chunk at %d of %d: %w", at, off, size, filewatch.ErrCorrupt)
		}
		if err := p.write(at+off, regions[0][:length]); err != nil {
			return err
		}
		regions = regions[1:]
		n += run - 1
	}
	return nil
}

// blockLSN is the LSN of the last write in a version 5 block, if it has one and
// is the file system's (xlog_recover_get_buf_lsn).
func (p *replayer) blockLSN(b []byte) (uint64, bool) {
	lsn, uuid := -1, -1
	switch be.Uint32(b) {
	case 0x41423342, 0x41423343, 0x46494233, inobtMagicV5, 0x524d4233, 0x52334643: // AB3B AB3C FIB3 IAB3 RMB3 R3FC
		lsn, uuid = 24, 32
	case bmapMagicV5:
		lsn, uuid = 32, 40
	case 0x58414746: // XAGF
		lsn, uuid = 208, 64
	case 0x5841464c: // XAFL
		lsn, uuid = 24, 8
	case agiMagic:
		lsn, uuid = 320, 296
	case 0x58534c4d: // XSLM
		lsn, uuid = 48, 16
	case dirBlockMagicV5, dirDataMagicV5, 0x58444633: // XDF3
		lsn, uuid = 16, 24
	case superMagic:
		lsn, uuid = 240, 32
	default:
		switch be.Uint16(b[8:]) {
		case 0x3df1, 0x3dff, daNodeMagicV5, attrLeafV5:
			lsn, uuid = 24, 32
		}
	}
	if lsn < 0 || lsn+8 > len(b) {
		return 0, false
	}
	want := p.v.s.metaUUID[:]
	if be.Uint32(b) == superMagic {
		want = p.v.s.uuid[:]
	}
	n := be.Uint64(b[lsn:])
	return n, bytes.Equal(b[uuid:uuid+16], want) && n != 0 && n != ^uint64(0)
}

// create is struct xfs_icreate_log: 4 group, 8 block, 12 count, 16 size of an
// inode, 20 length in blocks, 24 generation; big-endian. It makes new inodes,
// which all have mode 0.
func (p *replayer) create(i *item) error {
	b, s := i.regions[0], p.v.s
	if len(b) < 28 {
		return fmt.Errorf("inode creation of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	ag, block, count, size, length, gen := be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint32(b[16:]), be.Uint32(b[20:]), be.Uint32(b[24:])
	number := (uint64(ag)<<s.agBlkLog | uint64(block)) << s.inodesBlkLog
	at, err := s.inodeAt(number)
	if err != nil || int64(size) != s.inodeSize || int64(count)*s.inodeSize != int64(length)*s.blockSize || count > 1024 {
		return fmt.Errorf("creation of %d inodes of %d bytes in group %d: %w", count, size, ag, filewatch.ErrCorrupt)
	}
	if _, err := s.inodeAt(number + uint64(count) - 1); err != nil {
		return err
	}
	for n := range p.cancelled { // freed again later
		if first := int64(n.block) * 512; first < at+int64(count)*s.inodeSize && first+int64(n.length)*512 > at {
			return nil
		}
	}
	raw := make([]byte, s.inodeSize)
	for n := range uint64(count) {
		clear(raw)
		be.PutUint16(raw, inodeMagic)
		raw[4] = 2
		be.PutUint32(raw[92:], gen)
		be.PutUint32(raw[96:], ^uint32(0))
		if s.v5 {
			raw[4] = 3
			be.PutUint64(raw[152:], number+n)
			copy(raw[160:], s.metaUUID[:])
		}
		if err := p.write(at+int64(n)*s.inodeSize, raw); err != nil {
			return err
		}
	}
	return nil
}

// Fields of an inode item (XFS_ILOG_*).
const (
	logCore      = 0x001
	logDataLocal = 0x002
	logDataExt   = 0x004
	logDataRoot  = 0x008
	logDev       = 0x010
	logAttrLocal = 0x040
	logAttrExt   = 0x080
	logAttrRoot  = 0x100
	logOwners    = 0x600
)

// inode replays an inode item (xlog_recover_inode_commit_pass2): struct
// xfs_inode_log_format, the core, then the forks that were logged.
func (p *replayer) inode(lsn uint64, i *item) error {
	b := i.regions[0]
	if len(b) == 52 { // written by a 32-bit kernel, without the padding
		b = append(append(append([]byte(nil), b[:12]...), 0, 0, 0, 0), b[12:]...)
	}
	if len(b) < 56 || len(i.regions) < 2 {
		return fmt.Errorf("inode item of %d bytes, %d regions: %w", len(b), len(i.regions), filewatch.ErrCorrupt)
	}
	fields, number := le.Uint32(b[4:]), le.Uint64(b[16:])
	blkno, length, off := le.Uint64(b[40:]), le.Uint32(b[48:]), le.Uint32(b[52:])
	s := p.v.s
	if p.cancelled[extentKey{blkno, uint64(length)}] > 0 {
		return nil
	}
	at, err := s.inodeAt(number)
	if err != nil || at != int64(blkno)*512+int64(off) {
		return fmt.Errorf("inode item %d at sector %d+%d: %w", number, blkno, off, filewatch.ErrCorrupt)
	}
	raw := make([]byte, s.inodeSize)
	if err := p.read(at, raw); err != nil {
		return err
	}
	core := i.regions[1]
	size := 100
	if s.v5 {
		size = 176
	}
	if len(core) < 96 || be.Uint16(raw) != inodeMagic || le.Uint16(core) != inodeMagic {
		return fmt.Errorf("inode item %d with a core of %d bytes over magic %#x: %w", number, len(core), be.Uint16(raw), filewatch.ErrCorrupt)
	}
	if s.v5 && len(core) < 176 {
		return fmt.Errorf("inode item %d with a core of %d bytes: %w", number, len(core), filewatch.ErrCorrupt)
	}
	if s.v5 {
		if on := be.Uint64(raw[112:]); on != 0 && on != ^uint64(0) && on > lsn {
			return nil
		}
	} else if stale(le.Uint16(core[30:]), be.Uint16(raw[30:])) {
		return nil
	}
	if fields&logOwners != 0 {
		p.v.damage = append(p.v.damage, fmt.Errorf("inode %d: log changes the owner of its blocks: %w", number, filewatch.ErrNotSupported))
	}
	coreToDisk(raw, core, lsn)
	if fields&logDev != 0 {
		be.PutUint32(raw[size:], le.Uint32(b[24:]))
	}
	if err := forksToDisk(raw, size, fields, i.regions[2:], s.v5); err != nil {
		return fmt.Errorf("inode item %d: %w", number, err)
	}
	return p.write(at, raw)
}

// stale compares flush counters of version 4, which wrap.
func stale(logged, disk uint16) bool {
	return logged < disk && !(disk == 0xFFFF && logged < 0x7FFF)
}

// coreFields are the widths of struct xfs_log_dinode in bytes, in order. The log
// has them in the machine's order, the disk big-endian.
var coreFields = []int{
	2, 2, -2, 2, 4, 4, 4, 2, 2, // magic, mode, version and format, metatype, uid, gid, nlink, projid
	8, 8, 8, 8, 8, 8, 4, // extents or flush counter, times, size, blocks, extent size
	4, 2, -2, 4, 2, 2, 4, 4, // extents, attribute extents, forkoff and aformat, dmig, flags, generation, unlinked
}

// coreToDisk converts the core (xfs_log_dinode_to_disk).
func coreToDisk(raw, core []byte, lsn uint64) {
	unlinked := append([]byte(nil), raw[96:100]...)
	at := 0
	for _, w := range coreFields {
		if at+max(w, -w) <= min(len(core), 100) {
			swap(raw[at:], core[at:], w)
		}
		at += max(w, -w)
	}
	v3 := core[4] == 3 && len(core) >= 176
	flags2 := uint64(0)
	if v3 {
		flags2 = le.Uint64(core[120:])
	}
	if flags2&flag2Nrext64 != 0 {
		be.PutUint32(raw[76:], le.Uint32(core[76:]))
		be.PutUint16(raw[80:], 0)
	}
	if !v3 {
		// 24: six bytes of padding, then the flush counter, which recovery begins
		// anew: what the log has later of the inode counts whatever it says.
		copy(raw[24:30], core[24:30])
		clear(raw[30:32])
	}
	for _, off := range []int{32, 40, 48} {
		stampToDisk(raw[off:], core[off:], flags2)
	}
	copy(raw[96:100], unlinked)
	if !v3 {
		return
	}
	swap(raw[104:], core[104:], 8) // change count
	be.PutUint64(raw[112:], lsn)
	swap(raw[120:], core[120:], 8)
	swap(raw[128:], core[128:], 4)
	stampToDisk(raw[144:], core[144:], flags2)
	swap(raw[152:], core[152:], 8)
	copy(raw[160:176], core[160:176])
}

// stampToDisk converts a time: one number with bigtime, else two.
func stampToDisk(dst, src []byte, flags2 uint64) {
	if flags2&flag2Bigtime != 0 {
		swap(dst, src, 8)
		return
	}
	swap(dst, src, 4)
	swap(dst[4:], src[4:], 4)
}

// swap copies a field of the given width in the other byte order; a negative
// width is that many single bytes.
func swap(dst, src []byte, width int) {
	for i := range max(width, -width) {
		if width > 0 {
			dst[i] = src[width-1-i]
		} else {
			dst[i] = src[i]
		}
	}
}

// forksToDisk copies the logged forks behind the core.
func forksToDisk(raw []byte, start int, fields uint32, regions [][]byte, v5 bool) error {
	split := len(raw)
	if off := int(raw[82]) * 8; off > 0 {
		split = start + off
	}
	if split > len(raw) {
		return fmt.Errorf("attribute fork at %d of %d: %w", split, len(raw), filewatch.ErrCorrupt)
	}
	for _, f := range []struct {
		plain, root uint32
		fork        []byte
	}{
		{logDataLocal | logDataExt, logDataRoot, raw[start:split]},
		{logAttrLocal | logAttrExt, logAttrRoot, raw[split:]},
	} {
		if fields&(f.plain|f.root) == 0 {
			continue
		}
		if len(regions) == 0 {
			return nil // logged with nothing in it
		}
		src := regions[0]
		regions = regions[1:]
		if fields&f.root != 0 {
			if err := rootToDisk(f.fork, src, v5); err != nil {
				return err
			}
			continue
		}
		if len(src) > len(f.fork) {
			return fmt.Errorf("fork of %d bytes into %d: %w", len(src), len(f.fork), filewatch.ErrCorrupt)
		}
		copy(f.fork, src)
	}
	return nil
}

// rootToDisk turns a tree root from the form of a block, which is logged, into
// that of an inode (xfs_bmbt_to_bmdr).
func rootToDisk(dst, src []byte, v5 bool) error {
	head := 24
	if v5 {
		head = 72
	}
	if len(src) < head || len(dst) < 4 {
		return fmt.Errorf("tree root of %d bytes: %w", len(src), filewatch.ErrCorrupt)
	}
	level, count := be.Uint16(src[4:]), int(be.Uint16(src[6:]))
	from, to := (len(src)-head)/16, (len(dst)-4)/16
	if count > from || count > to {
		return fmt.Errorf("tree root with %d entries: %w", count, filewatch.ErrCorrupt)
	}
	be.PutUint16(dst, level)
	be.PutUint16(dst[2:], uint16(count))
	copy(dst[4:], src[head:head+8*count])
	copy(dst[4+8*to:], src[head+8*from:][:8*count])
	return nil
}
