package trap

import (
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Limits of what is read from a guest, Linux's own: PATH_MAX, TASK_COMM_LEN,
// XATTR_NAME_MAX (include/uapi/linux/limits.h). Depth is ours.
const (
	MaxPath      = 4096
	MaxName      = 255
	MaxDepth     = 512
	MaxComm      = 16
	MaxAncestors = 8
)

// Record is one operation as it was decoded at the hook, before any rule.
// Strings are raw bytes of the guest.
type Record struct {
	Sequence uint64 // counts per connection from 1; a gap is a loss
	Time     int64  // the observing host's clock, Unix nanoseconds
	CPU      uint32
	Op       filewatch.Op
	Stage    Stage
	Marks    Marks

	Actor  Task
	Parent [MaxAncestors]Task // nearest first; the first with TID 0 ends it

	Volume   Volume
	Object   Inode
	Replaced Inode // what a rename replaced; zero when nothing

	Path    Name
	NewPath Name   // of a rename, exchange or link
	Detail  string // name of an xattr, target of a symbolic link
	Flags   uint64 // ia_valid of a change of attributes, mode of a fallocate
	Writes  uint32 // modifications seen since the last record of this open file
}

// Stage tells the records of one open file apart.
type Stage uint8

// The stages of a write.
const (
	Whole   Stage = iota // the operation is over
	Ongoing              // the file is being written and is still open
	Closed               // the last reference to the open file went away
)

// Marks say what about a record is not as usual.
type Marks uint8

// The marks.
const (
	PathTruncated Marks = 1 << iota // a path is longer or deeper than the limits, or looped
	Unlinked                        // the object had lost its name
	NoMount                         // no mount of the whole volume in the guest's first mount namespace
	NotSettled                      // the function's return was not seen: success unknown
	KernelThread                    // no user program did it
	Denied                          // refused by the protect rule
)

// Task is a thread of the guest.
type Task struct {
	PID, TID uint32 // process and thread, numbered in the first PID namespace
	UID, GID uint32 // file-system identity: what permissions are checked with
	RealUID  uint32 // who started it
	Comm     string
}

// Volume is the file system an object lives on.
type Volume struct {
	UUID   [16]byte // super_block.s_uuid; zero when the family has none
	Device uint32   // s_dev: major<<20 | minor
	Type   string   // "ext4"
	Name   string   // s_id: "vda2"
}

// Inode is the kernel's in-memory view of an object, at the time of the record.
type Inode struct {
	Address    uint64 // of the kernel's structure; to look at it again
	Number     uint64
	Generation uint32
	Mode       uint32 // with S_IFMT
	UID, GID   uint32
	Nlink      uint32
	Rdev       uint32
	Size       int64
	Mtime      int64 // Unix nanoseconds
	Ctime      int64
}

// Name is a path in two parts: where the volume's root is mounted in the
// guest's first mount namespace ("" for "/"), and the path within the volume.
// Bind mounts and changed roots do not alter it.
type Name struct {
	Mount string
	Path  string
}

// String is the path in the guest.
func (n Name) String() string {
	if n.Path == "/" && n.Mount != "" {
		return n.Mount
	}
	return n.Mount + n.Path
}
