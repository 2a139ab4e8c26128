package filewatch

import "fmt"

// The bits of Object.Mode above the permissions.
const (
	ModeSetuid = 0o4000
	ModeSetgid = 0o2000
	ModeSticky = 0o1000
)

// ID is what an object is, whatever it is called.
type ID struct {
	Volume     string
	Inode      uint64
	Generation uint32
}

func (id ID) String() string { return fmt.Sprintf("%s/%d.%d", id.Volume, id.Inode, id.Generation) }

// ID is the object's identity.
func (o *Object) ID() ID { return ID{o.Volume, o.Inode, o.Generation} }

// Executable says that someone may execute the object: a regular file with any
// execute bit.
func (o *Object) Executable() bool { return o.Type == TypeFile && o.Mode&0o111 != 0 }

// Xattr returns the value of one extended attribute.
func (o *Object) Xattr(name string) ([]byte, bool) {
	for _, x := range o.Xattrs {
		if x.Name == name {
			return x.Value, true
		}
	}
	return nil, false
}
