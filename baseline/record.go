package baseline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Digest is a 256-bit digest; the zero value means that there is none.
type Digest [32]byte

// Record is one object with its names and the digests of its content.
type Record struct {
	filewatch.Object
	// Names are the paths in the guest, sorted bytewise; never empty. The first
	// is the record's path. An object without a name has "".
	Names []string
	// BLAKE3 and SHA256 are digests of a regular file's content, each kept where
	// the rule asks for it; without rules BLAKE3.
	BLAKE3, SHA256 Digest
	// Unread says why the object could not be read whole.
	Unread string
	// Text is the content of a small text file, where a rule asks for it.
	Text Text
}

// Path is the first of the object's names.
func (r *Record) Path() string { return r.Names[0] }

// SameContent compares the content with digests of another one. known is false
// when they have no algorithm in common.
func (r *Record) SameContent(blake3, sha256 Digest) (same, known bool) {
	same = true
	for _, d := range [][2]Digest{{r.BLAKE3, blake3}, {r.SHA256, sha256}} {
		if d[0] != (Digest{}) && d[1] != (Digest{}) {
			same, known = same && d[0] == d[1], true
		}
	}
	return same && known, known
}

// ErrDamaged marks a baseline whose bytes make no sense.
var ErrDamaged = errors.New("baseline is damaged")

// Bounds on one record. Linux allows 65,000 links on ext4, paths of 4,096
// bytes through one call but longer in a tree, and xattrs of 64 KiB each.
const (
	maxRecord = 64 << 20
	maxNames  = 1 << 20
	maxXattrs = 1 << 16
)

// What a record has beyond the fixed fields.
const (
	hasLink = 1 << iota
	hasRdev
	hasFlags
	hasXattrs
	hasBLAKE3
	hasSHA256
	hasUnread
	hasMtime
	hasCtime
	hasText
)

// appendRecord encodes r: uvarint length of the rest, then the path, then
// volume and inode, so that comparing the bytes after the length prefixes gives
// the order of a baseline: path, volume, inode.
func appendRecord(b []byte, r *Record, scratch *[]byte) []byte {
	b, _ = encodeRecord(b, r, scratch)
	return b
}

// encodeRecord is appendRecord, and says where in b the SHA-256 is.
func encodeRecord(b []byte, r *Record, scratch *[]byte) (encoded []byte, sha256 int) {
	body := appendBytes((*scratch)[:0], r.Names[0])
	body = appendBytes(body, r.Volume)
	body = binary.BigEndian.AppendUint64(body, r.Inode)
	body = binary.BigEndian.AppendUint32(body, r.Generation)
	body, sha256 = appendObject(body, r)
	*scratch = body
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...), len(b) + sha256
}

func appendObject(b []byte, r *Record) (out []byte, sha256 int) {
	has := r.presence()
	b = append(b, typeCode(r.Type))
	b = binary.AppendUvarint(b, has)
	for _, v := range []uint64{uint64(r.Mode), uint64(r.UID), uint64(r.GID), uint64(r.Nlink), uint64(r.Size)} {
		b = binary.AppendUvarint(b, v)
	}
	for _, t := range []struct {
		bit uint64
		at  time.Time
	}{{hasMtime, r.Mtime}, {hasCtime, r.Ctime}} {
		if has&t.bit != 0 {
			b = binary.AppendVarint(b, t.at.Unix())
			b = binary.AppendUvarint(b, uint64(t.at.Nanosecond()))
		}
	}
	if has&hasLink != 0 {
		b = appendBytes(b, r.Link)
	}
	if has&hasRdev != 0 {
		b = binary.AppendUvarint(b, uint64(r.Major))
		b = binary.AppendUvarint(b, uint64(r.Minor))
	}
	if has&hasFlags != 0 {
		b = binary.AppendUvarint(b, uint64(r.Flags))
	}
	if has&hasXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Xattrs)))
		for _, x := range r.Xattrs {
			b = appendBytes(b, x.Name)
			b = appendBytes(b, x.Value)
		}
	}
	if has&hasBLAKE3 != 0 {
		b = append(b, r.BLAKE3[:]...)
	}
	sha256 = len(b)
	if has&hasSHA256 != 0 {
		b = append(b, r.SHA256[:]...)
	}
	if has&hasUnread != 0 {
		b = appendBytes(b, r.Unread)
	}
	if has&hasText != 0 {
		b = appendText(b, &r.Text)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Names)-1))
	for _, name := range r.Names[1:] {
		b = appendBytes(b, name)
	}
	return b, sha256
}

func (r *Record) presence() uint64 {
	var has uint64
	for _, p := range []struct {
		bit uint64
		set bool
	}{
		{hasLink, r.Link != ""}, {hasRdev, r.Type == filewatch.TypeChar || r.Type == filewatch.TypeBlock},
		{hasFlags, r.Flags != 0}, {hasXattrs, len(r.Xattrs) > 0}, {hasBLAKE3, r.BLAKE3 != Digest{}},
		{hasSHA256, r.SHA256 != Digest{}}, {hasUnread, r.Unread != ""}, {hasMtime, !r.Mtime.IsZero()}, {hasCtime, !r.Ctime.IsZero()},
		{hasText, r.Text.State != TextNone},
	} {
		if p.set {
			has |= p.bit
		}
	}
	return has
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var typeCodes = []filewatch.Type{filewatch.TypeUnknown, filewatch.TypeFile, filewatch.TypeDir, filewatch.TypeSymlink,
	filewatch.TypeChar, filewatch.TypeBlock, filewatch.TypeFIFO, filewatch.TypeSocket}

func typeCode(t filewatch.Type) byte {
	for i, name := range typeCodes {
		if name == t {
			return byte(i)
		}
	}
	return 0
}

// decodeRecord reads one record without its length prefix.
func decodeRecord(body []byte) (*Record, error) {
	d := decoder{rest: body}
	r := &Record{Names: []string{string(d.bytes())}}
	r.Volume = string(d.bytes())
	r.Inode = binary.BigEndian.Uint64(d.take(8))
	r.Generation = binary.BigEndian.Uint32(d.take(4))
	if code := d.take(1)[0]; int(code) < len(typeCodes) {
		r.Type = typeCodes[code]
	} else {
		d.bad = true
	}
	has := d.uvarint(math.MaxUint16)
	r.Mode = uint16(d.uvarint(0o7777))
	r.UID, r.GID, r.Nlink = d.u32(), d.u32(), d.u32()
	r.Size = int64(d.uvarint(math.MaxInt64))
	if has&hasMtime != 0 {
		r.Mtime = d.time()
	}
	if has&hasCtime != 0 {
		r.Ctime = d.time()
	}
	if has&hasLink != 0 {
		r.Link = string(d.bytes())
	}
	if has&hasRdev != 0 {
		r.Major, r.Minor = d.u32(), d.u32()
	}
	if has&hasFlags != 0 {
		r.Flags = d.u32()
	}
	if has&hasXattrs != 0 {
		for n := d.uvarint(maxXattrs); n > 0 && !d.bad; n-- {
			r.Xattrs = append(r.Xattrs, filewatch.Xattr{Name: string(d.bytes()), Value: bytes.Clone(d.bytes())})
		}
	}
	if has&hasBLAKE3 != 0 {
		r.BLAKE3 = Digest(d.take(32))
	}
	if has&hasSHA256 != 0 {
		r.SHA256 = Digest(d.take(32))
	}
	if has&hasUnread != 0 {
		r.Unread = string(d.bytes())
	}
	if has&hasText != 0 {
		r.Text = d.text()
	}
	for n := d.uvarint(maxNames); n > 0 && !d.bad; n-- {
		r.Names = append(r.Names, string(d.bytes()))
	}
	if d.bad || len(d.rest) != 0 || has != r.presence() {
		return nil, fmt.Errorf("record of %q: %w", r.Names[0], ErrDamaged)
	}
	return r, nil
}

// decoder reads varints and strings; the first that does not fit sticks.
type decoder struct {
	rest []byte
	bad  bool
}

var zeros [32]byte

// take gives n bytes, zeros after an error, so that callers can slice it; n is
// at most 32.
func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return zeros[:n]
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || v > most {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) u32() uint32 { return uint32(d.uvarint(math.MaxUint32)) }

func (d *decoder) time() time.Time {
	sec, n := binary.Varint(d.rest)
	if d.bad || n <= 0 {
		d.bad = true
		return time.Time{}
	}
	d.rest = d.rest[n:]
	return time.Unix(sec, int64(d.uvarint(999_999_999))).UTC()
}

// bytes gives a length-prefixed string as part of the input.
func (d *decoder) bytes() []byte {
	n := d.uvarint(math.MaxInt32)
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}
