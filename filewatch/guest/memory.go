package guest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Memory is what is kept of a scan so that a later one, told which blocks of the
// disks changed, looks at what those belong to and at nothing else: for each
// object where its bytes are (the reverse map from blocks to owners) and a digest
// of its metadata, every directory entry, and what the file system's reader keeps
// (volume.Follower).
//
// It holds for the volumes, mount points and disks it was made of. Whoever stores
// it sees to it that it comes back as it was.
type Memory struct{ volumes []*volumeMemory }

// volumeMemory is the memory of one volume.
type volumeMemory struct {
	id           string // UUID
	kind, point  string
	disk         int
	offset, size int64
	// clean says that no part of it was unreadable.
	clean bool
	// refused says why the volume cannot be followed; then the rest is empty.
	refused string
	marks   []byte
	objects placeList
	names   *names
}

func newVolumeMemory(m Mount) *volumeMemory {
	v := m.Volume
	return &volumeMemory{id: v.UUID, kind: v.Type, point: m.Point, disk: v.OnDisk(), offset: v.Offset, size: v.Size}
}

// at says that two memories are of the same volume in the same place.
func (m *volumeMemory) at(o *volumeMemory) bool {
	return m.id == o.id && m.kind == o.kind && m.point == o.point && m.disk == o.disk && m.offset == o.offset && m.size == o.size
}

// refuse keeps the first reason why the volume cannot be followed.
func (m *volumeMemory) refuse(reason string) {
	if m.refused == "" {
		m.refused = reason
	}
	m.marks, m.objects, m.names = nil, nil, nil
}

// placeList are places in the order of their inodes, each as: inode as a distance
// from the one before, length of the rest, two digests, size, extents.
type placeList []byte

// place is where one object is.
type place struct {
	inode   uint64
	raw     [16]byte // digest of the inode's own bytes, so that most need no parsing
	digest  [16]byte // of all that is known of the object
	size    int64
	inline  bool
	extents []filewatch.Extent // written ones, then metadata with Logical -1
}

// placeOf takes down an object.
func placeOf(o *filewatch.Object, c *filewatch.Content, scratch *[]byte) place {
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
	*scratch = describeObject((*scratch)[:0], o, c, p.extents)
	sum := blake3.Sum256(*scratch)
	copy(p.digest[:], sum[:])
	p.raw = rawDigest(c.Raw)
	return p
}

// rawDigest is of an inode's own bytes. Processors digest so little faster by
// SHA-256 than by BLAKE3.
func rawDigest(raw []byte) (d [16]byte) {
	sum := sha256.Sum256(raw)
	copy(d[:], sum[:])
	return d
}

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

// append adds a place behind the inode last.
func (l placeList) append(last uint64, p *place) placeList {
	body := append(append(make([]byte, 0, 96), p.raw[:]...), p.digest[:]...)
	body = binary.AppendUvarint(body, uint64(p.size))
	inline := byte(0)
	if p.inline {
		inline = 1
	}
	body = appendExtents(append(body, inline), p.extents)
	return l.appendRaw(last, p.inode, body)
}

func (l placeList) appendRaw(last, inode uint64, body []byte) placeList {
	l = binary.AppendUvarint(l, inode-last)
	return append(binary.AppendUvarint(l, uint64(len(body))), body...)
}

var errMemory = fmt.Errorf("memory of the last scan: %w", filewatch.ErrCorrupt)

// placeCursor goes through a list.
type placeCursor struct {
	rest  []byte
	inode uint64
	body  []byte
}

// next is false at the end.
func (c *placeCursor) next() (bool, error) {
	if len(c.rest) == 0 {
		return false, nil
	}
	step, n := binary.Uvarint(c.rest)
	if n <= 0 || step > math.MaxInt64 {
		return false, errMemory
	}
	size, m := binary.Uvarint(c.rest[n:])
	if m <= 0 || size < 2*16 || size > uint64(len(c.rest)-n-m) {
		return false, errMemory
	}
	c.inode += step
	c.body, c.rest = c.rest[n+m:n+m+int(size)], c.rest[n+m+int(size):]
	return true, nil
}

// raw and digest are the current place's.
func (c *placeCursor) raw() [16]byte    { return [16]byte(c.body) }
func (c *placeCursor) digest() [16]byte { return [16]byte(c.body[16:]) }

// place decodes the current place into p, whose memory is used again.
func (c *placeCursor) place(p *place) error {
	p.inode, p.raw, p.digest, p.extents = c.inode, c.raw(), c.digest(), p.extents[:0]
	d := memoryDecoder{rest: c.body[32:]}
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

// memoryDecoder reads numbers and texts; the first error sticks.
type memoryDecoder struct {
	rest []byte
	err  error
}

func (d *memoryDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.err != nil || n <= 0 || v > math.MaxInt64 {
		d.err = errMemory
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *memoryDecoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if d.err != nil || n <= 0 {
		d.err = errMemory
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *memoryDecoder) byte() byte {
	if d.err != nil || len(d.rest) == 0 {
		d.err = errMemory
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *memoryDecoder) text() []byte {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.rest)) {
		d.err = errMemory
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

const memoryMagic = "plumbline memory 2\n"

// Append encodes the memory.
func (m *Memory) Append(b []byte) []byte {
	b = append(b, memoryMagic...)
	b = binary.AppendUvarint(b, uint64(len(m.volumes)))
	for _, v := range m.volumes {
		b = appendText(b, v.id, v.kind, v.point, v.refused)
		for _, n := range []int64{int64(v.disk), v.offset, v.size} {
			b = binary.AppendVarint(b, n)
		}
		if v.clean {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		if v.refused != "" {
			continue
		}
		b = append(binary.AppendUvarint(b, uint64(len(v.marks))), v.marks...)
		b = append(binary.AppendUvarint(b, uint64(len(v.objects))), v.objects...)
		b = v.names.append(b)
	}
	return b
}

// ParseMemory decodes what Append made; b stays in use.
func ParseMemory(b []byte) (*Memory, error) {
	if len(b) < len(memoryMagic) || string(b[:len(memoryMagic)]) != memoryMagic {
		return nil, errMemory
	}
	d := memoryDecoder{rest: b[len(memoryMagic):]}
	m := &Memory{}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		v := &volumeMemory{id: string(d.text()), kind: string(d.text()), point: string(d.text()), refused: string(d.text())}
		v.disk, v.offset, v.size, v.clean = int(d.varint()), d.varint(), d.varint(), d.byte() != 0
		if v.refused == "" {
			v.marks, v.objects = d.text(), d.text()
			v.names = d.names(v.point)
		}
		m.volumes = append(m.volumes, v)
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = errMemory
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

// append encodes the entries in the order of their inodes.
func (t *names) append(b []byte) []byte {
	b = binary.AppendUvarint(b, t.root)
	b = binary.AppendUvarint(b, uint64(len(t.entries)))
	var last uint64
	for i := range t.entries {
		e := &t.entries[i]
		b = binary.AppendUvarint(b, e.inode()-last)
		b = binary.AppendUvarint(b, e.parent())
		b = appendText(b, t.get(e.text))
		last = e.inode()
	}
	return b
}

func (d *memoryDecoder) names(point string) *names {
	t := newNames(d.uvarint(), point)
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.err = errMemory
		return t
	}
	t.entries = make([]name, 0, n)
	var inode uint64
	for ; n > 0 && d.err == nil; n-- {
		inode += d.uvarint()
		e, err := t.entry(filewatch.Name{Inode: inode, Parent: d.uvarint(), Name: d.text()})
		if err != nil {
			d.err = errors.Join(errMemory, err)
		}
		t.entries = append(t.entries, e)
	}
	return t
}
