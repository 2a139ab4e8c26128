package filewatch

import "slices"

// Extent is a run of an object's content on its volume, in bytes.
type Extent struct {
	// Logical is the offset within the object.
	Logical int64
	// Physical is the offset within the volume; -1 for a run that reads as
	// zeros although space may be reserved for it.
	Physical int64
	// Length is how long the run is; it may pass the end of the object.
	Length int64
}

// Content is where an object's bytes are. Whatever neither Inline nor an extent
// covers, up to the object's size, is a hole and reads as zeros.
type Content struct {
	// Inline is content kept among the metadata, nil for none; then there are
	// no extents.
	Inline []byte
	// Extents are sorted by Logical and do not overlap.
	Extents []Extent
	// Meta are the blocks that describe the object besides its inode: extent
	// trees, attribute blocks. Their Logical is -1.
	Meta []Extent
	// At is the volume offset of the inode itself, -1 when unknown.
	At int64
	// Raw are the inode's own bytes as they were read, nil when unknown; valid
	// during the call that gives them.
	Raw []byte
}

// Name is one directory entry: a name of an inode. An inode with several hard
// links has several names.
type Name struct {
	// Parent is the directory's inode number.
	Parent uint64
	// Inode is the inode number that the entry points to.
	Inode uint64
	// Name is the last path element in raw bytes: neither empty, "." nor "..",
	// without '/' or NUL.
	Name []byte
}

// Reserved says that some of the first size bytes have space on the volume that is
// not marked as written and reads as zeros. A kernel that has the content in memory
// may be about to write it there.
func (c *Content) Reserved(size int64) bool {
	return slices.ContainsFunc(c.Extents, func(e Extent) bool { return e.Physical < 0 && e.Logical < size })
}
