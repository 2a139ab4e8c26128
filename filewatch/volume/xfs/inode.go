package xfs

import (
	"bytes"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Inode structures: struct xfs_dinode in fs/xfs/libxfs/xfs_format.h; offsets in
// comments.
const (
	inodeMagic = 0x494e // IN

	formatDev     = 0
	formatLocal   = 1
	formatExtents = 2
	formatBtree   = 3

	flagRealtime    = 1 << 0
	flagImmutable   = 1 << 3
	flagAppend      = 1 << 4
	flagSync        = 1 << 5
	flagNoatime     = 1 << 6
	flagNodump      = 1 << 7
	flagProjInherit = 1 << 9

	flag2DAX     = 1 << 0
	flag2Bigtime = 1 << 3
	flag2Nrext64 = 1 << 4

	modeType    = 0o170000
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
)

// inode is one raw inode and what is used of it while it is read.
type inode struct {
	number  uint64
	at      int64
	raw     []byte
	mode    uint16 // 2
	version byte   // 4
	links   uint32 // 16
	size    int64  // 56
	flags   uint16 // 90
	flags2  uint64 // 120
	scratch *scratch
	meta    []filewatch.Extent
}

// readInode reads one inode. A damaged one comes with its error.
func (v *Volume) readInode(n uint64, s *scratch) (*inode, error) {
	at, err := v.s.inodeAt(n)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, v.s.inodeSize)
	if _, err := v.dev.ReadAt(raw, at); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", n, err)
	}
	return v.parseInode(n, at, raw, s)
}

func (v *Volume) parseInode(n uint64, at int64, raw []byte, s *scratch) (*inode, error) {
	in := &inode{
		number: n, at: at, raw: raw, scratch: s,
		mode: be.Uint16(raw[2:]), version: raw[4], links: be.Uint32(raw[16:]), size: int64(be.Uint64(raw[56:])), flags: be.Uint16(raw[90:]),
	}
	if in.version == 1 {
		in.links = uint32(be.Uint16(raw[6:]))
	}
	if m := be.Uint16(raw); m != inodeMagic || (in.version == 3) != v.s.v5 || in.version == 0 || in.version > 3 {
		return in, fmt.Errorf("inode %d has magic %#x, version %d: %w", n, m, in.version, filewatch.ErrCorrupt)
	}
	if in.version == 3 {
		in.flags2 = be.Uint64(raw[120:])
		if !v.dev.changed(at, int64(len(raw))) && !checksum(raw, 100) {
			return in, fmt.Errorf("inode %d checksum: %w", n, filewatch.ErrCorrupt)
		}
		if be.Uint64(raw[152:]) != n || !bytes.Equal(raw[160:176], v.s.metaUUID[:]) {
			return in, fmt.Errorf("inode %d says it is inode %d: %w", n, be.Uint64(raw[152:]), filewatch.ErrCorrupt)
		}
	}
	if in.size < 0 {
		in.size = 0
		return in, fmt.Errorf("inode %d has a negative size: %w", n, filewatch.ErrCorrupt)
	}
	return in, nil
}

func (in *inode) kind() uint16 { return in.mode & modeType }

// time decodes seconds and nanoseconds, or nanoseconds since 1901 (bigtime).
func (in *inode) time(off int) time.Time {
	if in.flags2&flag2Bigtime != 0 {
		t := be.Uint64(in.raw[off:])
		return time.Unix(int64(t/1e9)-1<<31, int64(t%1e9)).UTC()
	}
	return time.Unix(int64(int32(be.Uint32(in.raw[off:]))), int64(be.Uint32(in.raw[off+4:]))).UTC()
}

// fork is the data or the attribute fork of an inode.
type fork struct {
	format  byte
	extents uint64
	data    []byte
	attr    bool
}

// forks are the two forks; the second has no data when there is none (82:
// forkoff in units of 8 bytes).
func (in *inode) forks() (data, attr fork, err error) {
	start := 100
	if in.version == 3 {
		start = 176
	}
	lit := in.raw[start:]
	data = fork{format: in.raw[5], extents: uint64(be.Uint32(in.raw[76:])), data: lit}
	attr = fork{format: in.raw[83], extents: uint64(be.Uint16(in.raw[80:])), attr: true}
	if in.flags2&flag2Nrext64 != 0 {
		data.extents, attr.extents = be.Uint64(in.raw[24:]), uint64(be.Uint32(in.raw[76:]))
	}
	if off := int(in.raw[82]) * 8; off > len(lit) {
		return data, attr, fmt.Errorf("inode %d: attribute fork at %d of %d: %w", in.number, off, len(lit), filewatch.ErrCorrupt)
	} else if off > 0 {
		data.data, attr.data = lit[:off], lit[off:]
	}
	return data, attr, nil
}

// flagPairs translates to what FS_IOC_GETFLAGS returns (xfs_fileattr_get,
// fileattr_fill_xflags).
var flagPairs = []struct {
	xfs uint16
	fs  uint32
}{
	{flagImmutable, 0x10}, {flagAppend, 0x20}, {flagSync, 0x08}, {flagNoatime, 0x80}, {flagNodump, 0x40}, {flagProjInherit, 0x20000000},
}

// object fills what stands in the inode itself.
func (v *Volume) object(in *inode) *filewatch.Object {
	raw := in.raw
	o := &filewatch.Object{
		Volume: v.UUID, Inode: in.number, Generation: be.Uint32(raw[92:]),
		Type: filewatch.TypeOf(uint32(in.mode)), Mode: in.mode & 0o7777,
		UID: be.Uint32(raw[8:]), GID: be.Uint32(raw[12:]), Nlink: in.links, Size: in.size,
		Atime: in.time(32), Mtime: in.time(40), Ctime: in.time(48),
		Project: uint32(be.Uint16(raw[20:])) | uint32(be.Uint16(raw[22:]))<<16,
	}
	if in.version == 3 {
		o.Crtime = in.time(144)
	}
	if in.version == 1 {
		o.Project = 0
	}
	for _, p := range flagPairs {
		if in.flags&p.xfs != 0 {
			o.Flags |= p.fs
		}
	}
	if in.flags2&flag2DAX != 0 {
		o.Flags |= 0x02000000
	}
	return o
}

// describe reads all there is about an inode. What could be read comes with the
// error for the rest.
func (v *Volume) describe(in *inode) (*filewatch.Object, filewatch.Content, error) {
	o := v.object(in)
	c := filewatch.Content{At: in.at, Raw: in.raw}
	data, attr, err := in.forks()
	if err != nil {
		return o, c, err
	}
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	o.Xattrs, err = v.xattrs(in, attr)
	switch k := in.kind(); {
	case k == modeChar || k == modeBlock:
		if data.format != formatDev || len(data.data) < 4 {
			keep(fmt.Errorf("inode %d: device in format %d: %w", in.number, data.format, filewatch.ErrCorrupt))
			break
		}
		dev := be.Uint32(data.data) // the encoding of System V
		o.Major, o.Minor = dev>>18&0x3fff, dev&0x3ffff
		o.Size = 0
	case data.format == formatLocal && (k == modeDir || k == modeSymlink):
		if in.size > int64(len(data.data)) {
			keep(fmt.Errorf("inode %d: %d of %d bytes in the inode: %w", in.number, len(data.data), in.size, filewatch.ErrCorrupt))
			break
		}
		c.Inline = append([]byte{}, data.data[:in.size]...)
	case k == modeRegular && in.flags&flagRealtime != 0:
		keep(fmt.Errorf("inode %d: content is on the realtime device: %w", in.number, filewatch.ErrNotSupported))
	case k == modeRegular || k == modeDir || k == modeSymlink:
		var e error
		c.Extents, e = v.extents(in, data)
		keep(e)
	case o.Type == filewatch.TypeUnknown:
		keep(fmt.Errorf("inode %d has mode %#o: %w", in.number, in.mode, filewatch.ErrCorrupt))
	}
	if in.kind() == modeSymlink && err == nil {
		o.Link, err = v.link(in, c)
	}
	c.Meta = in.meta
	if e := v.pending.unfinished[in.number]; e != nil {
		keep(e)
	}
	return o, c, err
}

// link reads the target of a symbolic link. Remote links of version 5 have a
// header in each block (struct xfs_dsymlink_hdr, 56 bytes).
func (v *Volume) link(in *inode, c filewatch.Content) (string, error) {
	const most, header, magic = 1024, 56, 0x58534c4d
	if in.size == 0 || in.size > most {
		return "", fmt.Errorf("symbolic link %d of %d bytes: %w", in.number, in.size, filewatch.ErrCorrupt)
	}
	if c.Inline != nil {
		return string(c.Inline), nil
	}
	var out []byte
	for _, e := range c.Extents {
		// One header per extent: the kernel maps a link with as few buffers as
		// the allocator gives runs (xfs_symlink_write_target).
		length := min(e.Length, (in.size+header+v.s.blockSize-1)/v.s.blockSize*v.s.blockSize+v.s.blockSize)
		b := make([]byte, length)
		if e.Physical < 0 || in.scratch.spend(length) != nil {
			break
		}
		if _, err := v.dev.ReadAt(b, e.Physical); err != nil {
			return "", fmt.Errorf("symbolic link %d: %w", in.number, err)
		}
		if v.s.v5 {
			used := int64(be.Uint32(b[8:]))
			span := min((used+header+v.s.blockSize-1)/v.s.blockSize*v.s.blockSize, length)
			if be.Uint32(b) != magic || used > length-header || int64(be.Uint32(b[4:])) != int64(len(out)) {
				return "", fmt.Errorf("symbolic link %d: block of %d bytes at %#x: %w", in.number, used, e.Physical, filewatch.ErrCorrupt)
			}
			if err := v.verify(b[:span], e.Physical, stampRemote, in.number); err != nil {
				return "", fmt.Errorf("symbolic link %d: %w", in.number, err)
			}
			b = b[header : header+used]
		}
		out = append(out, b[:min(int64(len(b)), in.size-int64(len(out)))]...)
		if int64(len(out)) == in.size {
			return string(out), nil
		}
	}
	return "", fmt.Errorf("symbolic link %d: %d of %d bytes: %w", in.number, len(out), in.size, filewatch.ErrCorrupt)
}
