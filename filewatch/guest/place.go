package guest

import (
	"encoding/binary"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/keyed"
)

// place is where one object is.
type place struct {
	inode   uint64
	raw     [16]byte // digest of the inode's own bytes, so that most need no parsing
	digest  [16]byte // of all that is known of the object
	size    int64
	inline  bool
	extents []filewatch.Extent // written ones, then metadata with Logical -1
}

// placer takes down where objects are. It is not safe for concurrent use.
type placer struct {
	digest  *keyed.Hash
	scratch []byte
}

// The numbers of the two kinds of strings that a volume's key digests.
const (
	rawString = iota
	objectString
)

// place takes down an object.
func (t *placer) place(o *filewatch.Object, c *filewatch.Content) place {
	p := place{inode: o.Inode, size: o.Size, inline: c.Inline != nil}
	if n := len(c.Extents) + len(c.Meta); n > 0 {
		p.extents = make([]filewatch.Extent, 0, n)
	}
	for _, list := range [][]filewatch.Extent{c.Extents, c.Meta} {
		for _, e := range list {
			if e.Physical >= 0 {
				p.extents = append(p.extents, e)
			}
		}
	}
	t.scratch = describeObject(t.scratch[:0], o, c, p.extents)
	p.digest = t.digest.Sum(objectString, t.scratch)
	p.raw = t.raw(c.Raw)
	return p
}

// raw is the digest of an inode's own bytes.
func (t *placer) raw(b []byte) [16]byte { return t.digest.Sum(rawString, b) }

// describeObject is everything about an object but its number, names, access time
// and content on blocks of its own.
func describeObject(b []byte, o *filewatch.Object, c *filewatch.Content, extents []filewatch.Extent) []byte {
	b = appendText(b, o.Volume, string(o.Type), o.Link)
	b = append(binary.AppendUvarint(b, uint64(len(c.Inline))), c.Inline...)
	for _, n := range [...]int64{int64(o.Generation), int64(o.Mode), int64(o.UID), int64(o.GID), int64(o.Nlink), o.Size,
		o.Mtime.Unix(), int64(o.Mtime.Nanosecond()), o.Ctime.Unix(), int64(o.Ctime.Nanosecond()),
		int64(o.Major), int64(o.Minor), int64(o.Flags), int64(o.Project), int64(len(o.Xattrs))} {
		b = binary.AppendVarint(b, n)
	}
	for _, x := range o.Xattrs {
		b = appendText(b, x.Name)
		b = append(binary.AppendUvarint(b, uint64(len(x.Value))), x.Value...)
	}
	return appendExtents(b, extents)
}

func appendText(b []byte, texts ...string) []byte {
	for _, t := range texts {
		b = append(binary.AppendUvarint(b, uint64(len(t))), t...)
	}
	return b
}

func appendExtents(b []byte, extents []filewatch.Extent) []byte {
	var physical, logical int64
	b = binary.AppendUvarint(b, uint64(len(extents)))
	for _, e := range extents {
		b = binary.AppendVarint(b, e.Physical-physical)
		b = binary.AppendVarint(b, e.Logical-logical)
		b = binary.AppendUvarint(b, uint64(e.Length))
		physical, logical = e.Physical+e.Length, e.Logical+e.Length
	}
	return b
}

// placeBody is a place but for its inode: both digests, size (uvarint), whether
// the content is in the inode (1 byte), extents.
type placeBody []byte

func (p *place) append(b []byte) []byte {
	b = append(append(b, p.raw[:]...), p.digest[:]...)
	b = binary.AppendUvarint(b, uint64(p.size))
	if p.inline {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return appendExtents(b, p.extents)
}

// valid says that the digests are there.
func (b placeBody) valid() bool { return len(b) >= 32 }

func (b placeBody) raw() [16]byte    { return [16]byte(b[:16]) }
func (b placeBody) digest() [16]byte { return [16]byte(b[16:32]) }

// decode decodes into p, whose memory is used again.
func (b placeBody) decode(inode uint64, p *place) error {
	if !b.valid() {
		return ErrMemory
	}
	p.inode, p.raw, p.digest, p.extents = inode, b.raw(), b.digest(), p.extents[:0]
	d := memoryDecoder{rest: b[32:]}
	p.size = int64(d.uvarint())
	p.inline = d.byte() != 0
	var physical, logical int64
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		e := filewatch.Extent{Physical: physical + d.varint(), Logical: logical + d.varint(), Length: int64(d.uvarint())}
		physical, logical = e.Physical+e.Length, e.Logical+e.Length
		p.extents = append(p.extents, e)
	}
	return d.err
}

// sameContent says that both places hold the same run of blocks, so that the
// content is the same where the blocks are.
func (p *place) sameContent(o *place) bool {
	content := func(p *place) []filewatch.Extent {
		n := slices.IndexFunc(p.extents, func(e filewatch.Extent) bool { return e.Logical < 0 })
		if n < 0 {
			n = len(p.extents)
		}
		return p.extents[:n]
	}
	return !p.inline && !o.inline && p.size == o.size && slices.Equal(content(p), content(o))
}

// on says whether the object's blocks meet any of the runs.
func (p *place) on(runs []filewatch.Extent) bool {
	for _, e := range p.extents {
		if volume.Overlaps(runs, e.Physical, e.Length) {
			return true
		}
	}
	return false
}
