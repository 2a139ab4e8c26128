package tap

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Digest is a 256-bit digest; the zero value means that there is none.
type Digest [32]byte

// State is one object as one look found it.
type State struct {
	filewatch.Object
	// Names are the paths in the guest, sorted bytewise; none when no directory
	// names the object. Of more than maxNames bytes of them only the first are here;
	// then Cut is set, Unread says so, and Strictest is the one that has the strictest
	// rule of all.
	Names     []string
	Cut       bool
	Strictest string
	// BLAKE3 and SHA256 are of a regular file's content, where the rules ask for it.
	BLAKE3, SHA256 Digest
	// Unread says why the object could not be read whole.
	Unread string
	// Unsettled says that the content may be still on its way from the guest's
	// memory: the file is empty, or has space that is not marked as written.
	Unsettled bool
	// Left says that the content is left to a later look: the digests are those of an
	// earlier one, and Unread says why.
	Left bool
}

// maxNames bounds the names of a state, in bytes. An object of so many has thousands
// of links.
const maxNames = 1 << 20

// cut bounds the names. level gives the level of the rule for a name.
func (s *State) cut(level func(name string) filewatch.Level) {
	size := 0
	i := slices.IndexFunc(s.Names, func(n string) bool { size += len(n); return size > maxNames })
	if i < 0 {
		return
	}
	best := filewatch.Ignore
	for _, n := range s.Names {
		if l := level(n); l > best {
			best, s.Strictest = l, n
		}
	}
	s.Names, s.Cut = slices.Clone(s.Names[:i]), true
	unread := fmt.Sprintf("names of more than %d bytes: only the first of them are compared", maxNames)
	if s.Unread != "" {
		unread = s.Unread + "; " + unread
	}
	s.Unread = unread
}

// name is the first name, "" for none.
func (s *State) name() string {
	if len(s.Names) == 0 {
		return ""
	}
	return s.Names[0]
}

// keyLen is the length of what states are sorted by: a digest of the volume's identity
// (16 bytes), then the inode (8 bytes, big-endian). A sorted file finds an entry by as
// many bytes (internal/sorted).
const (
	prefixLen = 16
	keyLen    = prefixLen + 8
)

func appendKey(b []byte, volume string, inode uint64) []byte {
	return appendInode(appendVolume(b, volume), inode)
}

func appendInode(b []byte, inode uint64) []byte { return binary.BigEndian.AppendUint64(b, inode) }

func appendVolume(b []byte, volume string) []byte {
	sum := blake3.Sum256([]byte(volume))
	return append(b, sum[:prefixLen]...)
}

// split takes an entry apart into key and encoded state; nil where it is neither.
func split(entry []byte) (key, body []byte) {
	if len(entry) < keyLen {
		return nil, nil
	}
	return entry[:keyLen:keyLen], entry[keyLen:]
}

// appendState encodes a state behind its key. Access and creation times are left
// out but for what tells two uses of an inode apart.
func appendState(b []byte, s *State) []byte {
	b = appendText(appendKey(b, s.Volume, s.Inode), s.Volume)
	put := binary.LittleEndian
	var bits byte
	for i, is := range [...]bool{s.Unsettled, s.Left, s.Cut} {
		if is {
			bits |= 1 << i
		}
	}
	b = put.AppendUint16(append(b, bits), s.Mode)
	for _, n := range [...]uint32{s.Generation, s.UID, s.GID, s.Nlink, s.Major, s.Minor, s.Flags, s.Project} {
		b = put.AppendUint32(b, n)
	}
	b = put.AppendUint64(b, uint64(s.Size))
	for _, t := range [...]time.Time{s.Mtime, s.Ctime, s.Crtime} {
		b = put.AppendUint32(put.AppendUint64(b, uint64(t.Unix())), uint32(t.Nanosecond()))
	}
	b = append(append(b, s.BLAKE3[:]...), s.SHA256[:]...)
	for _, text := range [...]string{string(s.Type), s.Link, s.Unread, s.Strictest} {
		b = appendText(b, text)
	}
	b = put.AppendUint32(b, uint32(len(s.Xattrs)))
	for _, x := range s.Xattrs {
		b = appendText(appendText(b, x.Name), string(x.Value))
	}
	b = put.AppendUint32(b, uint32(len(s.Names)))
	for _, name := range s.Names {
		b = appendText(b, name)
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
}

// parseState decodes a key and what appendState put behind it.
func parseState(key, body []byte) (*State, error) {
	s := &State{}
	s.Inode = binary.BigEndian.Uint64(key[prefixLen:])
	c := bin.Little(body)
	text := func() string { return string(c.Bytes(c.Count(1))) }
	s.Volume = text()
	bits := c.U8()
	s.Unsettled, s.Left, s.Cut, s.Mode = bits&1 != 0, bits&2 != 0, bits&4 != 0, c.U16()
	for _, n := range [...]*uint32{&s.Generation, &s.UID, &s.GID, &s.Nlink, &s.Major, &s.Minor, &s.Flags, &s.Project} {
		*n = c.U32()
	}
	s.Size = int64(c.U64())
	for _, t := range [...]*time.Time{&s.Mtime, &s.Ctime, &s.Crtime} {
		if at := time.Unix(int64(c.U64()), int64(c.U32())).UTC(); !at.IsZero() {
			*t = at
		}
	}
	copy(s.BLAKE3[:], c.Bytes(len(s.BLAKE3)))
	copy(s.SHA256[:], c.Bytes(len(s.SHA256)))
	s.Type, s.Link, s.Unread, s.Strictest = filewatch.Type(text()), text(), text(), text()
	for range c.Count(8) {
		s.Xattrs = append(s.Xattrs, filewatch.Xattr{Name: text(), Value: []byte(text())})
	}
	for range c.Count(4) {
		s.Names = append(s.Names, text())
	}
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errKept, err)
	}
	return s, nil
}
