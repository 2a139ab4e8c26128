package trap

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// ErrBadRecord is returned for bytes that AppendRecord cannot have made.
var ErrBadRecord = errors.New("malformed trap record")

// MaxRecord bounds the encoded size of a record: four path parts, a detail and
// the names of the actor and its ancestors, with room for the numbers.
const MaxRecord = 6*MaxPath + 2048

// AppendRecord appends the encoding of r to b: little-endian numbers in the
// order of the fields, each string behind its 16-bit length. It allocates
// nothing when b has room.
func AppendRecord(b []byte, r *Record) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, r.Sequence)
	b = le.AppendUint64(b, uint64(r.Time))
	b = le.AppendUint32(b, r.CPU)
	b = append(b, byte(r.Op), byte(r.Stage), byte(r.Marks))
	b = appendTask(b, &r.Actor)
	n := 0
	for n < MaxAncestors && r.Parent[n].TID != 0 {
		n++
	}
	b = append(b, byte(n))
	for i := range n {
		b = appendTask(b, &r.Parent[i])
	}
	b = append(b, r.Volume.UUID[:]...)
	b = le.AppendUint32(b, r.Volume.Device)
	b = appendString(b, r.Volume.Type)
	b = appendString(b, r.Volume.Name)
	b = appendInode(b, &r.Object)
	b = appendInode(b, &r.Replaced)
	for _, s := range [...]string{r.Path.Mount, r.Path.Path, r.NewPath.Mount, r.NewPath.Path, r.Detail} {
		b = appendString(b, s)
	}
	b = le.AppendUint64(b, r.Flags)
	return le.AppendUint32(b, r.Writes)
}

func appendTask(b []byte, t *Task) []byte {
	for _, v := range [...]uint32{t.PID, t.TID, t.UID, t.GID, t.RealUID} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return appendString(b, t.Comm)
}

func appendInode(b []byte, i *Inode) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, i.Address)
	b = le.AppendUint64(b, i.Number)
	for _, v := range [...]uint32{i.Generation, i.Mode, i.UID, i.GID, i.Nlink, i.Rdev} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]int64{i.Size, i.Mtime, i.Ctime} {
		b = le.AppendUint64(b, uint64(v))
	}
	return b
}

func appendString(b []byte, s string) []byte {
	if len(s) > MaxPath {
		s = s[:MaxPath]
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// DecodeRecord decodes one record, all of b. Its strings are copies.
func DecodeRecord(b []byte) (*Record, error) {
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes", ErrBadRecord, len(b))
	}
	c := bin.Little(b)
	r := &Record{Sequence: c.U64(), Time: int64(c.U64()), CPU: c.U32()}
	r.Op, r.Stage, r.Marks = filewatch.Op(c.U8()), Stage(c.U8()), Marks(c.U8())
	r.Actor = readTask(c)
	n := int(c.U8())
	if n > MaxAncestors {
		return nil, fmt.Errorf("%w: %d ancestors", ErrBadRecord, n)
	}
	for i := range n {
		r.Parent[i] = readTask(c)
	}
	copy(r.Volume.UUID[:], c.Bytes(16))
	r.Volume.Device = c.U32()
	r.Volume.Type = readString(c)
	r.Volume.Name = readString(c)
	r.Object = readInode(c)
	r.Replaced = readInode(c)
	for _, s := range [...]*string{&r.Path.Mount, &r.Path.Path, &r.NewPath.Mount, &r.NewPath.Path, &r.Detail} {
		*s = readString(c)
	}
	r.Flags, r.Writes = c.U64(), c.U32()
	if c.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRecord, c.Err())
	}
	if c.Len() != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the end", ErrBadRecord, c.Len())
	}
	return r, nil
}

func readTask(c *bin.Cursor) Task {
	return Task{PID: c.U32(), TID: c.U32(), UID: c.U32(), GID: c.U32(), RealUID: c.U32(), Comm: readString(c)}
}

func readInode(c *bin.Cursor) Inode {
	return Inode{
		Address: c.U64(), Number: c.U64(), Generation: c.U32(), Mode: c.U32(), UID: c.U32(), GID: c.U32(), Nlink: c.U32(), Rdev: c.U32(),
		Size: int64(c.U64()), Mtime: int64(c.U64()), Ctime: int64(c.U64()),
	}
}

func readString(c *bin.Cursor) string {
	n := int(c.U16())
	return string(c.Bytes(n))
}
