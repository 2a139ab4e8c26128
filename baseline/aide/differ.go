package aide

import (
	"bytes"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// differ gives the attributes of both lines that differ, with AIDE's precision:
// times in whole seconds. kept says that the content of a growing file still
// begins with the old one.
func differ(old, new *line, kept bool) attrs {
	var found attrs
	both := old.attrs & new.attrs
	growing := old.attrs&attrGrowing != 0
	is := func(a attrs, differs bool) {
		if both&a != 0 && differs {
			found |= a
		}
	}
	number := func(a attrs, was, now int64) { is(a, was != now && !(growing && was < now)) }
	is(attrFtype, old.Type != new.Type)
	is(attrLink, old.Link != new.Link)
	number(attrSize, old.Size, new.Size)
	is(attrPerm, old.Mode != new.Mode || old.Type != new.Type) // its first letter is the type
	is(attrUID, old.UID != new.UID)
	is(attrGID, old.GID != new.GID)
	number(attrMtime, old.Mtime.Unix(), new.Mtime.Unix())
	number(attrCtime, old.Ctime.Unix(), new.Ctime.Unix())
	is(attrInode, old.Inode != new.Inode)
	is(attrLinkcount, old.Nlink != new.Nlink)
	is(attrSHA256, old.SHA256 != new.SHA256 && !(growing && kept))
	is(attrBLAKE3, old.BLAKE3 != new.BLAKE3 && !(growing && kept))
	is(attrACL, !slices.Equal(old.acl, new.acl))
	is(attrXattrs, !slices.EqualFunc(old.xattrs(), new.xattrs(), func(a, b filewatch.Xattr) bool {
		return a.Name == b.Name && bytes.Equal(a.Value, b.Value)
	}))
	is(attrSELinux, old.cntx != new.cntx)
	is(attrE2fs, old.Flags != new.Flags)
	is(attrCaps, old.caps != new.caps)
	return found
}
