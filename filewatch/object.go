package filewatch

import "time"

// Type is what an object is, spelled as in baselines and events.
type Type string

// The types of objects. TypeUnknown is a mode that no file system should hold.
const (
	TypeFile    Type = "file"
	TypeDir     Type = "dir"
	TypeSymlink Type = "symlink"
	TypeChar    Type = "char"
	TypeBlock   Type = "block"
	TypeFIFO    Type = "fifo"
	TypeSocket  Type = "socket"
	TypeUnknown Type = "unknown"
)

// TypeOf is the type in the S_IFMT bits of a Unix mode, as stat(2) gives them.
func TypeOf(mode uint32) Type {
	switch mode & 0o170000 {
	case 0o100000:
		return TypeFile
	case 0o040000:
		return TypeDir
	case 0o120000:
		return TypeSymlink
	case 0o020000:
		return TypeChar
	case 0o060000:
		return TypeBlock
	case 0o010000:
		return TypeFIFO
	case 0o140000:
		return TypeSocket
	}
	return TypeUnknown
}

// Object is everything a file system says about one object except its names
// and its content. An object is known by (Volume, Inode, Generation).
type Object struct {
	// Volume is the identity of the file system: its UUID, or its serial
	// number where it has no UUID.
	Volume string
	// Inode is the inode number. File systems without inode numbers give a
	// number that is stable while the object stays where it is.
	Inode uint64
	// Generation tells two uses of an inode number apart; 0 where there is none.
	Generation uint32
	// Type is the object's type.
	Type Type
	// Mode holds the permission, setuid, setgid and sticky bits: mode & 0o7777.
	Mode uint16
	// UID and GID are the owner as the guest numbers it.
	UID, GID uint32
	// Nlink is the number of hard links the inode claims.
	Nlink uint32
	// Size is the length in bytes as stat(2) gives it.
	Size int64
	// Mtime, Ctime, Atime and Crtime are in UTC; zero where there is none.
	Mtime, Ctime, Atime, Crtime time.Time
	// Link is the target of a symbolic link, in raw bytes.
	Link string
	// Major and Minor are the device number of a char or block device.
	Major, Minor uint32
	// Flags are the attributes of lsattr(1), as FS_IOC_GETFLAGS numbers them
	// (linux/fs.h, FS_*_FL).
	Flags uint32
	// Project is the project quota identity.
	Project uint32
	// Xattrs are the extended attributes with the names and values that
	// getxattr(2) gives, ACLs included, sorted by name.
	Xattrs []Xattr
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}
