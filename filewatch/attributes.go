package filewatch

import (
	"fmt"
	"strings"
)

// Attributes is a set of what a rule compares.
type Attributes uint32

// Single attributes. The names rules use are in attributeNames.
const (
	AttrType Attributes = 1 << iota
	AttrSize
	AttrContent // BLAKE3 of the content
	AttrSHA256  // SHA-256 of the content
	AttrTarget  // of a symbolic link
	AttrRdev
	AttrMode
	AttrUID
	AttrGID
	AttrNlink
	AttrNames // the set of paths
	AttrInode // inode and generation: not replaced by an equal one
	AttrMtime
	AttrCtime
	AttrFlags
	AttrXattrs
	// AttrGrowing: the old content is still the beginning of the new one, in
	// place of equal size and content.
	AttrGrowing
	// AttrImmutable: nothing at all may differ, identity and ctime included.
	AttrImmutable
	// Parts of AttrXattrs, for rules that ask for no more.
	AttrACL     // POSIX ACLs
	AttrSELinux // the SELinux context
	AttrCaps    // file capabilities

	// AttrXattrParts are the parts that have names of their own.
	AttrXattrParts = AttrACL | AttrSELinux | AttrCaps
)

// CoversXattr says that a comparison of a looks at the extended attribute of a
// name.
func (a Attributes) CoversXattr(name string) bool {
	switch {
	case a.Has(AttrXattrs):
		return true
	case strings.HasPrefix(name, "system.posix_acl_"):
		return a.Has(AttrACL)
	case name == "security.selinux":
		return a.Has(AttrSELinux)
	case name == "security.capability":
		return a.Has(AttrCaps)
	}
	return false
}

// AllAttributes is every attribute that can be compared for any object. SHA-256
// is not in it: BLAKE3 already says whether content differs.
const AllAttributes = AttrType | AttrSize | AttrContent | AttrTarget | AttrRdev | AttrMode | AttrUID | AttrGID |
	AttrNlink | AttrNames | AttrInode | AttrMtime | AttrCtime | AttrFlags | AttrXattrs

// attributeNames are the words of "check" in rules, groups first.
var attributeNames = []struct {
	name string
	set  Attributes
}{
	{"all", AllAttributes},
	{"content", AttrSize | AttrContent | AttrTarget | AttrRdev},
	{"owner", AttrUID | AttrGID},
	{"links", AttrNlink | AttrNames},
	{"times", AttrMtime | AttrCtime},
	{"type", AttrType}, {"size", AttrSize}, {"blake3", AttrContent}, {"sha256", AttrSHA256},
	{"link", AttrTarget}, {"rdev", AttrRdev}, {"mode", AttrMode}, {"uid", AttrUID}, {"gid", AttrGID},
	{"nlink", AttrNlink}, {"names", AttrNames}, {"inode", AttrInode}, {"mtime", AttrMtime}, {"ctime", AttrCtime},
	{"flags", AttrFlags}, {"xattrs", AttrXattrs},
	{"acl", AttrACL}, {"selinux", AttrSELinux}, {"caps", AttrCaps},
	{"growing", AttrGrowing}, {"immutable", AttrImmutable},
}

// Has says that every attribute of set is in a.
func (a Attributes) Has(set Attributes) bool { return a&set == set }

func (a Attributes) String() string {
	var names []string
	for _, n := range attributeNames {
		if n.set != 0 && a.Has(n.set) {
			names = append(names, n.name)
			a &^= n.set
		}
	}
	return strings.Join(names, ",")
}

// ParseAttributes reads the words of a rule's "check". A type that changes is
// always a difference, so AttrType is always in the result.
func ParseAttributes(words []string) (Attributes, error) {
	set := AttrType
next:
	for _, w := range words {
		for _, n := range attributeNames {
			if n.name == w {
				set |= n.set
				continue next
			}
		}
		return 0, fmt.Errorf("unknown attribute %q: want %s", w, attributeWords())
	}
	if set.Has(AttrImmutable) {
		set |= AllAttributes
	}
	if set.Has(AttrGrowing) {
		set &^= AttrSize | AttrContent | AttrMtime | AttrCtime
	}
	return set, nil
}

func attributeWords() string {
	var words []string
	for _, n := range attributeNames {
		words = append(words, n.name)
	}
	return strings.Join(words, ", ")
}
