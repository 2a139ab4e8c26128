package filewatch

import "fmt"

// Op is an operation on a file as a guest's kernel performs it.
type Op uint8

// The operations, each with the OCSF activity it is reported as.
const (
	OpUnknown   Op = iota
	OpCreate       // a regular file came to be: open(O_CREAT)
	OpMkdir        //
	OpMknod        // device, FIFO or socket
	OpSymlink      //
	OpLink         // a further name for an object: NewPath
	OpWrite        // open for writing through close
	OpTruncate     //
	OpFallocate    // space punched, inserted, collapsed or zeroed
	OpUnlink       //
	OpRmdir        //
	OpRename       // Path became NewPath
	OpExchange     // renameat2(RENAME_EXCHANGE): Path and NewPath swapped
	OpUtimes       //
	OpSetFlags     // FS_IOC_SETFLAGS: immutable, append-only ...
	OpSetXattr     // user.* and trusted.*
	OpChmod        //
	OpChown        //
	OpSetACL       // POSIX ACL, security.capability, security.*
	OpExec         // a program was started from the object
)

// Activity ids of OCSF 1.3.0, File System Activity (class 1001).
const (
	ActivityUnknown       = 0
	ActivityCreate        = 1
	ActivityRead          = 2
	ActivityUpdate        = 3
	ActivityDelete        = 4
	ActivityRename        = 5
	ActivitySetAttributes = 6
	ActivitySetSecurity   = 7
	ActivityOther         = 99
)

var ops = [...]struct {
	name     string
	activity int
}{
	{"unknown", ActivityUnknown}, {"create", ActivityCreate}, {"mkdir", ActivityCreate}, {"mknod", ActivityCreate},
	{"symlink", ActivityCreate}, {"link", ActivityCreate}, {"write", ActivityUpdate}, {"truncate", ActivityUpdate},
	{"fallocate", ActivityUpdate}, {"unlink", ActivityDelete}, {"rmdir", ActivityDelete}, {"rename", ActivityRename},
	{"exchange", ActivityRename}, {"utimes", ActivitySetAttributes}, {"setflags", ActivitySetAttributes},
	{"setxattr", ActivitySetAttributes}, {"chmod", ActivitySetSecurity}, {"chown", ActivitySetSecurity},
	{"setacl", ActivitySetSecurity}, {"exec", ActivityOther},
}

var activities = map[int]string{
	ActivityUnknown: "Unknown", ActivityCreate: "Create", ActivityRead: "Read", ActivityUpdate: "Update",
	ActivityDelete: "Delete", ActivityRename: "Rename", ActivitySetAttributes: "Set Attributes",
	ActivitySetSecurity: "Set Security", ActivityOther: "Other",
}

func (op Op) String() string {
	if int(op) < len(ops) {
		return ops[op].name
	}
	return fmt.Sprintf("op(%d)", uint8(op))
}

// Activity is the OCSF activity_id the operation is reported as. Mode, owner,
// ACLs and capabilities are security; times, flags and other xattrs are
// attributes.
func (op Op) Activity() int {
	if int(op) < len(ops) {
		return ops[op].activity
	}
	return ActivityUnknown
}

// MarshalText gives the operation's name.
func (op Op) MarshalText() ([]byte, error) { return []byte(op.String()), nil }

// UnmarshalText accepts the names that MarshalText gives.
func (op *Op) UnmarshalText(b []byte) error {
	for i := range ops {
		if ops[i].name == string(b) {
			*op = Op(i)
			return nil
		}
	}
	return fmt.Errorf("unknown file operation %q", b)
}
