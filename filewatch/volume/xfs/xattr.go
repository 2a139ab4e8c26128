package xfs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Extended attributes: fs/xfs/libxfs/xfs_da_format.h, "Attribute storage".
const (
	daNodeMagic   = 0xfebe
	daNodeMagicV5 = 0x3ebe
	attrLeaf      = 0xfbee
	attrLeafV5    = 0x3bee
	remoteMagic   = 0x5841524d // XARM

	attrLocal      = 0x01
	attrRoot       = 0x02
	attrSecure     = 0x04
	attrParent     = 0x08
	attrIncomplete = 0x80

	// maxXattrs bounds the bytes of all values of one inode.
	maxXattrs = 4 << 20
	attrDepth = 5 // XFS_DA_NODE_MAXDEPTH
)

// attrReader collects the attributes of one inode.
type attrReader struct {
	v     *Volume
	in    *inode
	es    []filewatch.Extent
	out   []filewatch.Xattr
	total int
	seen  map[uint32]bool
}

func (v *Volume) xattrs(in *inode, f fork) ([]filewatch.Xattr, error) {
	if len(f.data) == 0 {
		return nil, nil
	}
	a := attrReader{v: v, in: in, seen: map[uint32]bool{}}
	err := a.read(f)
	slices.SortFunc(a.out, func(x, y filewatch.Xattr) int { return cmp.Compare(x.Name, y.Name) })
	if err != nil {
		err = fmt.Errorf("inode %d: attributes: %w", in.number, err)
	}
	return a.out, err
}

func (a *attrReader) read(f fork) error {
	if f.format == formatLocal {
		return a.short(f.data)
	}
	if f.format == formatExtents && f.extents == 0 {
		return nil
	}
	var err error
	if a.es, err = a.v.extents(a.in, f); err != nil {
		return err
	}
	for _, e := range a.es {
		a.in.meta = append(a.in.meta, filewatch.Extent{Logical: -1, Physical: e.Physical, Length: e.Length})
	}
	if len(a.es) == 0 {
		return nil
	}
	return a.block(0, attrDepth)
}

// short reads the form in the inode: total size, count; then lengths of name and
// value, flags, name, value.
func (a *attrReader) short(b []byte) error {
	if len(b) < 4 || int(be.Uint16(b)) < 4 || int(be.Uint16(b)) > len(b) {
		return fmt.Errorf("%d bytes in the inode: %w", len(b), filewatch.ErrCorrupt)
	}
	count := int(b[2])
	b = b[4:be.Uint16(b)]
	for range count {
		if len(b) < 3 || 3+int(b[0])+int(b[1]) > len(b) {
			return fmt.Errorf("entry with %d bytes left: %w", len(b), filewatch.ErrCorrupt)
		}
		n, m := int(b[0]), int(b[1])
		if err := a.add(b[2], b[3:3+n], append([]byte{}, b[3+n:3+n+m]...)); err != nil {
			return err
		}
		b = b[3+n+m:]
	}
	return nil
}

// block reads one block of the attribute tree; each is visited once.
func (a *attrReader) block(n uint32, depth int) error {
	if a.seen[n] || depth < 0 {
		return fmt.Errorf("block %d comes twice: %w", n, filewatch.ErrCorrupt)
	}
	a.seen[n] = true
	at, ok := blockAt(a.es, int64(n)*a.v.s.blockSize)
	if !ok {
		return fmt.Errorf("block %d is not mapped: %w", n, filewatch.ErrCorrupt)
	}
	b, err := a.in.scratch.block(depth, at)
	if err != nil {
		return err
	}
	if err := a.v.verify(b, at, stampDA, a.in.number); err != nil {
		return err
	}
	switch magic := be.Uint16(b[8:]); magic {
	case daNodeMagic, daNodeMagicV5: // count at 12 or 56, entries of hash and block at 16 or 64
		count, first := int(be.Uint16(b[12:])), 16
		if a.v.s.v5 {
			count, first = int(be.Uint16(b[56:])), 64
		}
		if first+8*count > len(b) {
			return fmt.Errorf("node %d with %d entries: %w", n, count, filewatch.ErrCorrupt)
		}
		for i := range count {
			if err := a.block(be.Uint32(b[first+8*i+4:]), depth-1); err != nil {
				return err
			}
		}
		return nil
	case attrLeaf, attrLeafV5:
		return a.leaf(b)
	default:
		return fmt.Errorf("block %d with magic %#x: %w", n, magic, filewatch.ErrCorrupt)
	}
}

// leaf walks struct xfs_attr_leafblock: entries of hash, offset of the name,
// flags.
func (a *attrReader) leaf(b []byte) error {
	count, first := int(be.Uint16(b[12:])), 32
	if a.v.s.v5 {
		count, first = int(be.Uint16(b[56:])), 80
	}
	if first+8*count > len(b) {
		return fmt.Errorf("leaf with %d entries: %w", count, filewatch.ErrCorrupt)
	}
	for i := range count {
		e := b[first+8*i:]
		hash, at, flags := be.Uint32(e), int(be.Uint16(e[4:])), e[6]
		if i > 0 && hash < be.Uint32(b[first+8*i-8:]) {
			return fmt.Errorf("hash %#x is out of its order: %w", hash, filewatch.ErrCorrupt)
		}
		if flags&attrIncomplete != 0 {
			continue
		}
		if at+9 > len(b) && flags&attrLocal == 0 || at+3 > len(b) {
			return fmt.Errorf("name at %d: %w", at, filewatch.ErrCorrupt)
		}
		if err := a.named(b[at:], flags, hash); err != nil {
			return err
		}
	}
	return nil
}

// hashed says that a name is where the kernel looks for it. Parent pointers have
// hashes of another kind, and no names.
func hashed(name []byte, flags byte, hash uint32) error {
	if flags&attrParent == 0 && hashName(name) != hash {
		return fmt.Errorf("%q stands under another hash, where the kernel does not look for it: %w", name, filewatch.ErrCorrupt)
	}
	return nil
}

// named reads a name with its value: local is the value's and the name's
// length, name, value; remote is the first block, the value's and the name's
// length, name.
func (a *attrReader) named(b []byte, flags byte, hash uint32) error {
	if flags&attrLocal != 0 {
		m, n := int(be.Uint16(b)), int(b[2])
		if 3+n+m > len(b) {
			return fmt.Errorf("name of %d and value of %d bytes: %w", n, m, filewatch.ErrCorrupt)
		}
		if err := hashed(b[3:3+n], flags, hash); err != nil {
			return err
		}
		return a.add(flags, b[3:3+n], append([]byte{}, b[3+n:3+n+m]...))
	}
	block, m, n := be.Uint32(b), be.Uint32(b[4:]), int(b[8])
	if 9+n > len(b) {
		return fmt.Errorf("name of %d bytes: %w", n, filewatch.ErrCorrupt)
	}
	name := append([]byte{}, b[9:9+n]...)
	if err := hashed(name, flags, hash); err != nil {
		return err
	}
	value, err := a.remote(block, m)
	if err != nil {
		return fmt.Errorf("value of %q: %w", name, err)
	}
	return a.add(flags, name, value)
}

// remote reads a value from blocks of its own; in version 5 each starts with
// struct xfs_attr3_rmt_hdr of 56 bytes.
func (a *attrReader) remote(block, size uint32) ([]byte, error) {
	const most, header = 64 << 10, 56
	if size > most {
		return nil, fmt.Errorf("%d bytes: %w", size, filewatch.ErrCorrupt)
	}
	out := make([]byte, 0, size)
	b := make([]byte, a.v.s.blockSize)
	for n := int64(block); len(out) < int(size); n++ {
		at, ok := blockAt(a.es, n*a.v.s.blockSize)
		if !ok {
			return nil, fmt.Errorf("block %d is not mapped: %w", n, filewatch.ErrCorrupt)
		}
		if err := a.in.scratch.spend(int64(len(b))); err != nil {
			return nil, err
		}
		if _, err := a.v.dev.ReadAt(b, at); err != nil {
			return nil, err
		}
		part := b
		if a.v.s.v5 {
			used := int(be.Uint32(b[8:]))
			if be.Uint32(b) != remoteMagic || used == 0 || used > len(b)-header || int(be.Uint32(b[4:])) != len(out) {
				return nil, fmt.Errorf("block %d holds %d bytes from %d: %w", n, used, be.Uint32(b[4:]), filewatch.ErrCorrupt)
			}
			if err := a.v.verify(b, at, stampRemote, a.in.number); err != nil {
				return nil, err
			}
			part = b[header : header+used]
		}
		out = append(out, part[:min(len(part), int(size)-len(out))]...)
	}
	return out, nil
}

// add gives an attribute its name and value for user space. ACLs are kept in a
// form of the file system's own, which the kernel shows as well.
func (a *attrReader) add(flags byte, name, value []byte) error {
	if flags&(attrIncomplete|attrParent) != 0 {
		return nil
	}
	if a.total += len(name) + len(value); a.total > maxXattrs {
		return fmt.Errorf("more than %d bytes: %w", maxXattrs, filewatch.ErrNotSupported)
	}
	prefix := "user."
	switch {
	case flags&attrRoot != 0:
		prefix = "trusted."
		if acl := aclNames[string(name)]; acl != "" {
			v, err := convertACL(value)
			if err != nil {
				return fmt.Errorf("%s: %w", acl, err)
			}
			a.out = append(a.out, filewatch.Xattr{Name: acl, Value: v})
		}
	case flags&attrSecure != 0:
		prefix = "security."
	}
	a.out = append(a.out, filewatch.Xattr{Name: prefix + string(name), Value: value})
	return nil
}

var aclNames = map[string]string{
	"SGI_ACL_FILE": "system.posix_acl_access", "SGI_ACL_DEFAULT": "system.posix_acl_default",
}

// convertACL turns struct xfs_acl (count; tag, identifier, permissions, padding;
// big-endian) into the form of getxattr(2) (linux/posix_acl_xattr.h).
func convertACL(b []byte) ([]byte, error) {
	const tagUser, tagGroup, noID = 0x02, 0x08, 0xFFFFFFFF
	if len(b) < 4 || uint64(be.Uint32(b))*12 > uint64(len(b)-4) {
		return nil, fmt.Errorf("ACL of %d bytes: %w", len(b), filewatch.ErrCorrupt)
	}
	le := binary.LittleEndian
	out := le.AppendUint32(nil, 2)
	for i := range int(be.Uint32(b)) {
		e := b[4+12*i:]
		tag, id := be.Uint32(e), be.Uint32(e[4:])
		if tag != tagUser && tag != tagGroup {
			id = noID
		}
		out = le.AppendUint16(out, uint16(tag))
		out = le.AppendUint16(out, be.Uint16(e[8:]))
		out = le.AppendUint32(out, id)
	}
	return out, nil
}
