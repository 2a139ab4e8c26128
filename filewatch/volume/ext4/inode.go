package ext4

import (
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Reserved inode numbers: Documentation/filesystems/ext4/special_inodes.rst.
const (
	rootInode = 2
)

// Inode flags (0x20).
const (
	flagEncrypt    = 0x00000800
	flagIndex      = 0x00001000
	flagHugeFile   = 0x00040000
	flagExtents    = 0x00080000
	flagEAInode    = 0x00200000
	flagInlineData = 0x10000000
	flagCasefold   = 0x40000000

	// flagsVisible are those that FS_IOC_GETFLAGS returns: EXT4_FL_USER_VISIBLE.
	flagsVisible = 0x725BDFFF
)

const (
	modeType    = 0o170000
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
)

// inode is one raw inode and what is used of it while it is read.
type inode struct {
	number     uint32
	generation uint32
	raw        []byte
	mode       uint16
	flags      uint32
	links      uint16
	size       int64
	at         int64              // on the volume
	seed       uint32             // of the checksums of the inode's own blocks
	changes    []rangeChange      // by fast commits
	scratch    *scratch           // buffers to reuse
	meta       []filewatch.Extent // blocks met while reading it
}

// scratch holds the buffers of one reader of inodes. Blocks are read at each
// depth of a tree while those above are in use.
type scratch struct {
	v      *Volume
	blocks [8][]byte
	// only, if not 0, is the one type of inodes to read.
	only uint16
	// budget bounds the bytes of metadata that one scan reads; a crafted volume
	// can share one block among all inodes.
	budget int64
}

func (v *Volume) newScratch() *scratch {
	return &scratch{v: v, budget: max(1<<30, 4*int64(v.s.blocks)*v.s.blockSize)}
}

// block reads one block into the buffer of a depth.
func (s *scratch) block(depth int, n uint64) ([]byte, error) {
	bs := s.v.s.blockSize
	if s.blocks[depth] == nil {
		s.blocks[depth] = make([]byte, bs)
	}
	b := s.blocks[depth]
	if n == 0 || n >= s.v.s.blocks {
		return nil, fmt.Errorf("block %d of %d: %w", n, s.v.s.blocks, filewatch.ErrCorrupt)
	}
	if s.budget -= bs; s.budget < 0 {
		return nil, fmt.Errorf("metadata blocks are shared beyond reason: %w", filewatch.ErrCorrupt)
	}
	if _, err := s.v.dev.ReadAt(b, int64(n)*bs); err != nil {
		return nil, fmt.Errorf("read block %d: %w", n, err)
	}
	return b, nil
}

// readInode reads one inode and verifies its checksum. A damaged inode comes
// with its error.
func (v *Volume) readInode(n uint64, s *scratch) (*inode, error) {
	if n == 0 || n > v.s.inodes {
		return nil, fmt.Errorf("inode %d of %d: %w", n, v.s.inodes, filewatch.ErrCorrupt)
	}
	g := (n - 1) / uint64(v.s.inodesPerGroup)
	if v.groups[g].bad != nil {
		return nil, v.groups[g].bad
	}
	at := v.inodeAt(n)
	raw := make([]byte, v.s.inodeSize)
	if _, err := v.dev.ReadAt(raw, at); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", n, err)
	}
	return v.parseInode(uint32(n), at, raw, s)
}

// inodeAt is where an inode lies on the volume.
func (v *Volume) inodeAt(n uint64) int64 {
	g, i := (n-1)/uint64(v.s.inodesPerGroup), (n-1)%uint64(v.s.inodesPerGroup)
	return int64(v.groups[g].table)*v.s.blockSize + int64(i)*int64(v.s.inodeSize)
}

// parseInode decodes what every use of an inode needs. Raw is kept.
func (v *Volume) parseInode(n uint32, at int64, raw []byte, s *scratch) (*inode, error) {
	in := &inode{}
	return in, v.parseInodeInto(in, n, at, raw, s)
}

// parseInodeInto is parseInode with memory that is used again.
func (v *Volume) parseInodeInto(in *inode, n uint32, at int64, raw []byte, s *scratch) error {
	raw, changes := v.fast.inode(n, raw)
	*in = inode{
		number: n, raw: raw, at: at, scratch: s, changes: changes,
		mode: le.Uint16(raw), links: le.Uint16(raw[0x1A:]), flags: le.Uint32(raw[0x20:]),
		generation: le.Uint32(raw[0x64:]), size: int64(le.Uint32(raw[0x4:])),
	}
	if in.mode&modeType == modeRegular || v.s.incompat&incompatLargeDir != 0 {
		in.size |= int64(le.Uint32(raw[0x6C:])) << 32
	}
	if in.size < 0 {
		in.size = 0
		return fmt.Errorf("inode %d has a negative size: %w", n, filewatch.ErrCorrupt)
	}
	if !v.s.hasCsum {
		return nil
	}
	in.seed = crcU32(crcU32(v.s.seed, n), in.generation)
	if wrote, damage := v.fast.wrote(n); wrote {
		return damage
	}
	if sum, stored := in.sum(); sum != stored {
		return fmt.Errorf("inode %d: checksum %#x, stored %#x: %w", n, sum, stored, filewatch.ErrCorrupt)
	}
	return nil
}

// sum is ext4_inode_csum, and what the inode stores: 16 bits in old inodes.
func (in *inode) sum() (sum, stored uint32) {
	raw := in.raw
	sum = crc(in.seed, raw[:0x7C])
	sum = crc(sum, zero4[:2])
	stored = uint32(le.Uint16(raw[0x7C:]))
	if !in.has(0x82, 2) {
		sum = crc(sum, raw[0x7E:])
		return sum & 0xFFFF, stored
	}
	sum = crc(sum, raw[0x7E:0x82])
	sum = crc(sum, zero4[:2])
	sum = crc(sum, raw[0x84:])
	return sum, stored | uint32(le.Uint16(raw[0x82:]))<<16
}

// has says whether the inode is large enough for a field of its extra part
// (0x80: extra_isize).
func (in *inode) has(off, size int) bool {
	if len(in.raw) <= 128 {
		return false
	}
	extra := int(le.Uint16(in.raw[0x80:]))
	return off+size <= 128+extra && off+size <= len(in.raw)
}

// time joins 32 bits of seconds with their extra field: 2 more bits of seconds,
// 30 bits of nanoseconds. An inode that has room for extra fields and says that it
// has none gets these with what lies there (__ext4_iget).
func (in *inode) time(off, extra int) time.Time {
	sec, ns := int64(int32(le.Uint32(in.raw[off:]))), int64(0)
	if in.has(extra, 4) || len(in.raw) > 128 && le.Uint16(in.raw[0x80:]) == 0 {
		x := le.Uint32(in.raw[extra:])
		sec += int64(x&3) << 32
		ns = int64(x >> 2)
	}
	return time.Unix(sec, ns).UTC()
}

func (in *inode) kind() uint16 { return in.mode & modeType }

// iblock is the 60 bytes that hold the block map, the extent root, a short link
// or the start of inline data (0x28).
func (in *inode) iblock() []byte { return in.raw[0x28:0x64] }

// object fills what stands in the inode itself.
func (v *Volume) object(in *inode) *filewatch.Object {
	raw := in.raw
	o := &filewatch.Object{
		Volume: v.UUID, Inode: uint64(in.number), Generation: in.generation,
		Type: filewatch.TypeOf(uint32(in.mode)), Mode: in.mode & 0o7777,
		UID:   uint32(le.Uint16(raw[0x2:])) | uint32(le.Uint16(raw[0x78:]))<<16,
		GID:   uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7A:]))<<16,
		Nlink: uint32(in.links), Size: in.size,
		Ctime: in.time(0xC, 0x84), Mtime: in.time(0x10, 0x88), Atime: in.time(0x8, 0x8C),
		Flags: in.flags & flagsVisible,
	}
	if in.has(0x90, 8) {
		o.Crtime = in.time(0x90, 0x94)
	}
	if v.s.roCompat&roProject != 0 && in.has(0x9C, 4) {
		o.Project = le.Uint32(raw[0x9C:])
	}
	if k := in.kind(); k == modeChar || k == modeBlock {
		o.Major, o.Minor = device(in.iblock())
	}
	return o
}

// device decodes the old 16-bit form in the first word or the new 32-bit form
// in the second (ext4_iget; linux/kdev_t.h).
func device(b []byte) (major, minor uint32) {
	if d := le.Uint32(b); d != 0 {
		return d >> 8 & 0xFF, d & 0xFF
	}
	d := le.Uint32(b[4:])
	return d & 0xFFF00 >> 8, d&0xFF | d>>12&0xFFF00
}

// describe reads all there is about an inode. What could be read comes with the
// error for the rest.
func (v *Volume) describe(in *inode) (*filewatch.Object, filewatch.Content, error) {
	o := v.object(in)
	c := filewatch.Content{At: in.at, Raw: in.raw}
	xattrs, inline, err := v.xattrs(in)
	o.Xattrs = xattrs
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	if in.flags&flagInlineData != 0 && inline == nil {
		keep(errNotInline(in.number))
	}
	switch k := in.kind(); {
	case inline != nil && in.flags&flagInlineData != 0:
		c.Inline = append(append(make([]byte, 0, 60+len(inline)), in.iblock()...), inline...)
	case k == modeSymlink && in.fastLink(v.s):
		c.Inline = append([]byte(nil), in.iblock()[:in.size]...)
	case k == modeRegular || k == modeDir || k == modeSymlink:
		var e error
		c.Extents, e = v.extents(in)
		keep(e)
	case o.Type == filewatch.TypeUnknown:
		keep(fmt.Errorf("inode %d has mode %#o: %w", in.number, in.mode, filewatch.ErrCorrupt))
	}
	c.Meta = in.meta
	if in.flags&flagEncrypt != 0 {
		keep(fmt.Errorf("inode %d: %w", in.number, filewatch.ErrEncrypted))
		return o, c, err
	}
	if in.kind() == modeSymlink && err == nil {
		o.Link, err = v.link(in, c)
	}
	return o, c, err
}

// errNotInline is of an inode whose flag says that its data are inline, and which
// has none: kernels before 6.18 take its block map for one, so does the reader.
func errNotInline(number uint32) error {
	return fmt.Errorf("inode %d is marked as inline, and has no inline data: %w", number, filewatch.ErrCorrupt)
}

// fastLink says whether a symbolic link's target stands in the inode
// (ext4_inode_is_fast_symlink): it then has no block of its own, but for attributes.
func (in *inode) fastLink(s *super) bool {
	if s.incompat&incompatEAInode != 0 {
		return in.size > 0 && in.size < 60
	}
	own := uint64(0)
	if in.attributeBlock(s) != 0 {
		own = uint64(s.clusterSize / 512)
	}
	return in.size < 60 && in.blocks(s) == own
}

// blocks is ext4_inode_blocks: 32 bits at 0x1C, 16 more at 0x74, in units of 512
// bytes or of the file system's blocks.
func (in *inode) blocks(s *super) uint64 {
	n := uint64(le.Uint32(in.raw[0x1C:]))
	if s.roCompat&roHugeFile == 0 {
		return n
	}
	n |= uint64(le.Uint16(in.raw[0x74:])) << 32
	if in.flags&flagHugeFile != 0 {
		n *= uint64(s.blockSize / 512)
	}
	return n
}

// attributeBlock is the block of attributes, 0 for none: 0x68, 0x76.
func (in *inode) attributeBlock(s *super) uint64 {
	n := uint64(le.Uint32(in.raw[0x68:]))
	if s.incompat&incompat64Bit != 0 {
		n |= uint64(le.Uint16(in.raw[0x76:])) << 32
	}
	return n
}

// link reads the target of a symbolic link, at most a block of it.
func (v *Volume) link(in *inode, c filewatch.Content) (string, error) {
	if in.size == 0 || in.size > v.s.blockSize {
		return "", fmt.Errorf("symbolic link %d of %d bytes: %w", in.number, in.size, filewatch.ErrCorrupt)
	}
	if c.Inline != nil {
		if in.size > int64(len(c.Inline)) {
			return "", fmt.Errorf("symbolic link %d of %d bytes holds %d: %w", in.number, in.size, len(c.Inline), filewatch.ErrCorrupt)
		}
		return string(c.Inline[:in.size]), nil
	}
	if len(c.Extents) == 0 || c.Extents[0].Logical != 0 || c.Extents[0].Physical < 0 {
		return "", fmt.Errorf("symbolic link %d has no block: %w", in.number, filewatch.ErrCorrupt)
	}
	b, err := in.scratch.block(0, uint64(c.Extents[0].Physical/v.s.blockSize))
	if err != nil {
		return "", fmt.Errorf("symbolic link %d: %w", in.number, err)
	}
	return string(b[:in.size]), nil
}
