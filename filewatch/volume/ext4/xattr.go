package ext4

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Extended attributes: Documentation/filesystems/ext4/attributes.rst.
const (
	xattrMagic = 0xEA020000

	xattrData    = 7 // "system.data": the rest of inline data
	xattrACL     = 2
	xattrDefault = 3

	// maxXattrs bounds the bytes of all values of one inode.
	maxXattrs = 4 << 20
)

// xattrPrefix are the names getxattr(2) shows for a name index. Indexes without
// a prefix are the file system's own and not shown, as in Linux.
var xattrPrefix = map[byte]string{
	1: "user.", xattrACL: "system.posix_acl_access", xattrDefault: "system.posix_acl_default",
	4: "trusted.", 6: "security.", 8: "system.richacl", 10: "gnu.",
}

// xattrEntry is one struct ext4_xattr_entry.
type xattrEntry struct {
	index byte
	name  []byte
	value []byte
}

// xattrs reads the attributes of an inode, and apart from them its inline data
// beyond the first 60 bytes: nil, not empty, where it has none. The kernel looks for
// those among the inode's own attributes only (ext4_find_inline_data_nolock).
func (v *Volume) xattrs(in *inode) (out []filewatch.Xattr, inline []byte, err error) {
	total := 0
	take := func(e xattrEntry) error {
		if total += len(e.value); total > maxXattrs {
			return fmt.Errorf("more than %d bytes of attributes: %w", maxXattrs, filewatch.ErrNotSupported)
		}
		x, ok, err := convertXattr(e)
		if ok {
			out = append(out, x)
		}
		return err
	}
	if body := in.body(); body != nil {
		err = v.entries(in, body, body, func(e xattrEntry) error {
			if e.index == xattrData && string(e.name) == "data" {
				inline = e.value // not nil
				return nil
			}
			return take(e)
		})
	}
	if e := v.xattrBlock(in, take); err == nil {
		err = e
	}
	slices.SortFunc(out, func(a, b filewatch.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	if err != nil {
		err = fmt.Errorf("inode %d: attributes: %w", in.number, err)
	}
	return out, inline, err
}

// body is the attribute space behind the extra fields, nil if there is none, as
// where there are no extra fields (__ext4_iget). Offsets of values count from its
// first entry.
func (in *inode) body() []byte {
	if len(in.raw) <= 128+4 || le.Uint16(in.raw[0x80:]) == 0 {
		return nil
	}
	at := 128 + int(le.Uint16(in.raw[0x80:]))
	if at+4 > len(in.raw) || le.Uint32(in.raw[at:]) != xattrMagic {
		return nil
	}
	return in.raw[at+4:]
}

// xattrBlock reads the block at i_file_acl, which inodes with the same
// attributes share. Offsets of values count from its start.
func (v *Volume) xattrBlock(in *inode, take func(xattrEntry) error) error {
	n := in.attributeBlock(v.s)
	if n == 0 {
		return nil
	}
	b, err := in.scratch.block(0, n)
	if err != nil {
		return err
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return fmt.Errorf("attribute block %d magic %#x: %w", n, le.Uint32(b), filewatch.ErrCorrupt)
	}
	if v.s.hasCsum {
		var num [8]byte
		le.PutUint64(num[:], n)
		sum := crc(crc(crc(v.s.seed, num[:]), b[:0x10]), zero4[:])
		if sum = crc(sum, b[0x14:]); sum != le.Uint32(b[0x10:]) {
			return fmt.Errorf("attribute block %d checksum %#x, stored %#x: %w", n, sum, le.Uint32(b[0x10:]), filewatch.ErrCorrupt)
		}
	}
	in.meta = append(in.meta, filewatch.Extent{Logical: -1, Physical: int64(n) * v.s.blockSize, Length: v.s.blockSize})
	var last *xattrEntry
	return v.entries(in, b[0x20:], b, func(e xattrEntry) error {
		if last != nil && last.compare(e) >= 0 {
			return fmt.Errorf("%q stands behind %q, where the kernel does not look for it: %w", e.name, last.name, filewatch.ErrCorrupt)
		}
		last = &e
		return take(e)
	})
}

// compare is the order of entries in a block, in which the kernel looks for one no
// further than it can be (xattr_find_entry): index, length of the name, name.
func (e *xattrEntry) compare(o xattrEntry) int {
	return cmp.Or(cmp.Compare(e.index, o.index), cmp.Compare(len(e.name), len(o.name)), bytes.Compare(e.name, o.name))
}

// entries walks entries of 16 bytes plus the name, padded to 4, up to four zero
// bytes. Values are copied.
func (v *Volume) entries(in *inode, b, base []byte, take func(xattrEntry) error) error {
	for at := 0; ; {
		if at+4 > len(b) {
			return fmt.Errorf("entries without an end: %w", filewatch.ErrCorrupt)
		}
		if le.Uint32(b[at:]) == 0 {
			return nil
		}
		if at+16 > len(b) || at+16+int(b[at]) > len(b) {
			return fmt.Errorf("entry at %#x of %#x: %w", at, len(b), filewatch.ErrCorrupt)
		}
		h := b[at : at+16]
		e := xattrEntry{index: h[1], name: b[at+16:][:h[0]]}
		offset, valueInode, size := int(le.Uint16(h[2:])), le.Uint32(h[4:]), le.Uint32(h[8:])
		var err error
		switch {
		case valueInode != 0:
			e.value, err = v.valueInode(in, valueInode, size)
		case size == 0:
			e.value = []byte{}
		case int64(offset)+int64(size) > int64(len(base)):
			err = fmt.Errorf("value of %d bytes at %#x of %#x: %w", size, offset, len(base), filewatch.ErrCorrupt)
		default:
			e.value = append([]byte(nil), base[offset:][:size]...)
		}
		if err == nil {
			err = take(e)
		}
		if err != nil {
			return err
		}
		at += (16 + int(h[0]) + 3) &^ 3
	}
}

// valueInode reads a large value from an inode of its own. The inode's atime
// holds the value's checksum (ext4_xattr_inode_get_hash).
func (v *Volume) valueInode(in *inode, n, size uint32) ([]byte, error) {
	const most = 64 << 10 // XATTR_SIZE_MAX
	s := v.newScratch()
	s.budget = in.scratch.budget - int64(size)
	defer func() { in.scratch.budget = s.budget }()
	if size > most || s.budget < 0 {
		return nil, fmt.Errorf("value of %d bytes in inode %d: %w", size, n, filewatch.ErrCorrupt)
	}
	ea, err := v.readInode(uint64(n), s)
	if err != nil {
		return nil, err
	}
	if ea.flags&flagEAInode == 0 || ea.size != int64(size) || ea.kind() != modeRegular {
		return nil, fmt.Errorf("inode %d holds no value of %d bytes: %w", n, size, filewatch.ErrCorrupt)
	}
	es, err := v.extents(ea)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	for _, e := range es {
		if e.Physical < 0 || e.Logical >= int64(size) {
			continue
		}
		part := b[e.Logical:]
		if int64(len(part)) > e.Length {
			part = part[:e.Length]
		}
		if _, err := v.dev.ReadAt(part, e.Physical); err != nil {
			return nil, fmt.Errorf("read value in inode %d: %w", n, err)
		}
		in.meta = append(in.meta, filewatch.Extent{Logical: -1, Physical: e.Physical, Length: e.Length})
	}
	in.meta = append(append(in.meta, ea.meta...), filewatch.Extent{Logical: -1, Physical: ea.at, Length: int64(v.s.inodeSize)})
	if sum := crc(v.s.seed, b); sum != le.Uint32(ea.raw[0x8:]) && v.s.hasCsum {
		return nil, fmt.Errorf("value in inode %d: checksum %#x, stored %#x: %w", n, sum, le.Uint32(ea.raw[0x8:]), filewatch.ErrCorrupt)
	}
	return b, nil
}

// convertXattr gives an attribute its name and value for user space; false for
// those the kernel does not show.
func convertXattr(e xattrEntry) (filewatch.Xattr, bool, error) {
	prefix, ok := xattrPrefix[e.index]
	if !ok {
		return filewatch.Xattr{}, false, nil
	}
	x := filewatch.Xattr{Name: prefix + string(e.name), Value: e.value}
	if e.index == xattrACL || e.index == xattrDefault {
		var err error
		if x.Value, err = convertACL(e.value); err != nil {
			return x, false, fmt.Errorf("%s: %w", x.Name, err)
		}
	}
	return x, true, nil
}

// convertACL turns the form on the disk (version 1, identifiers only where a
// tag needs one; fs/ext4/acl.h) into that of getxattr(2) (version 2, 8 bytes an
// entry; linux/posix_acl_xattr.h).
func convertACL(b []byte) ([]byte, error) {
	const tagUser, tagGroup, noID = 0x02, 0x08, 0xFFFFFFFF
	if len(b) < 4 || le.Uint32(b) != 1 {
		return nil, fmt.Errorf("ACL of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	out := le.AppendUint32(make([]byte, 0, 2*len(b)), 2)
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, fmt.Errorf("ACL entry of %d bytes: %w", len(b), filewatch.ErrCorrupt)
		}
		tag, id := le.Uint16(b), uint32(noID)
		out = append(out, b[:4]...)
		b = b[4:]
		if tag == tagUser || tag == tagGroup {
			if len(b) < 4 {
				return nil, fmt.Errorf("ACL entry without its identifier: %w", filewatch.ErrCorrupt)
			}
			id, b = le.Uint32(b), b[4:]
		}
		out = le.AppendUint32(out, id)
	}
	return out, nil
}
