package baseline

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// deltas lists the attributes of check that differ. known are those of the new
// state that have been observed at all.
func deltas(old, new *Record, check, known filewatch.Attributes) Deltas {
	if known.Has(filewatch.AttrXattrs) {
		known |= filewatch.AttrXattrParts
	}
	c := comparison{check: check & known}
	c.text(filewatch.AttrType, "type", string(old.Type), string(new.Type))
	if old.Type != filewatch.TypeDir || new.Type != filewatch.TypeDir {
		// A directory's size says how full it once was, nothing about what is
		// in it now.
		c.number(filewatch.AttrSize, "size", old.Size, new.Size)
	}
	if old.BLAKE3 != (Digest{}) && new.BLAKE3 != (Digest{}) || old.Type != new.Type {
		c.text(filewatch.AttrContent, "blake3", old.BLAKE3.String(), new.BLAKE3.String())
	}
	if old.SHA256 != (Digest{}) && new.SHA256 != (Digest{}) || old.Type != new.Type {
		c.text(filewatch.AttrSHA256, "sha256", old.SHA256.String(), new.SHA256.String())
	}
	c.text(filewatch.AttrTarget, "link", filewatch.EscapePath(old.Link), filewatch.EscapePath(new.Link))
	c.text(filewatch.AttrRdev, "rdev", old.rdev(), new.rdev())
	c.text(filewatch.AttrMode, "mode", formatMode(old.Mode), formatMode(new.Mode))
	c.number(filewatch.AttrUID, "uid", int64(old.UID), int64(new.UID))
	c.number(filewatch.AttrGID, "gid", int64(old.GID), int64(new.GID))
	c.number(filewatch.AttrNlink, "nlink", int64(old.Nlink), int64(new.Nlink))
	c.names(old.Names, new.Names)
	c.text(filewatch.AttrInode, "volume", old.Volume, new.Volume)
	c.number(filewatch.AttrInode, "inode", int64(old.Inode), int64(new.Inode))
	if old.Generation != 0 && new.Generation != 0 { // 0: the source could not tell
		c.number(filewatch.AttrInode, "generation", int64(old.Generation), int64(new.Generation))
	}
	c.text(filewatch.AttrMtime, "mtime", formatTime(old.Mtime), formatTime(new.Mtime))
	c.text(filewatch.AttrCtime, "ctime", formatTime(old.Ctime), formatTime(new.Ctime))
	if old.Flags != new.Flags {
		c.text(filewatch.AttrFlags, "flags", formatFlags(old.Flags), formatFlags(new.Flags))
	}
	c.xattrs(old.Xattrs, new.Xattrs)
	return c.found
}

// formatFlags is lsattr's letters with the number, because not every bit has a
// letter.
func formatFlags(flags uint32) string {
	return fmt.Sprintf("%s (%#x)", filewatch.FlagLetters(flags), flags)
}

type comparison struct {
	check filewatch.Attributes
	found Deltas
}

func (c *comparison) text(a filewatch.Attributes, name, old, new string) {
	if c.check.Has(a) && old != new {
		c.found = append(c.found, Delta{name, orNil(old), orNil(new)})
	}
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (c *comparison) number(a filewatch.Attributes, name string, old, new int64) {
	if c.check.Has(a) && old != new {
		c.found = append(c.found, Delta{name, old, new})
	}
}

// names compares the sets of names; an object that only moved differs in
// "path", one that gained or lost a name in "names".
func (c *comparison) names(old, new []string) {
	if !c.check.Has(filewatch.AttrNames) || slices.Equal(old, new) {
		return
	}
	if len(old) == 1 && len(new) == 1 {
		c.found = append(c.found, Delta{"path", filewatch.EscapePath(old[0]), filewatch.EscapePath(new[0])})
		return
	}
	c.found = append(c.found, Delta{"names", escapeAll(old), escapeAll(new)})
}

// xattrs gives the attributes that differ, not those that are equal.
func (c *comparison) xattrs(old, new []filewatch.Xattr) {
	if c.check&(filewatch.AttrXattrs|filewatch.AttrXattrParts) == 0 {
		return
	}
	gone, come := c.covered(missingXattrs(old, new)), c.covered(missingXattrs(new, old))
	if len(gone) == 0 && len(come) == 0 {
		return
	}
	d := Delta{Name: "xattrs"}
	if len(gone) > 0 {
		d.Old = encodeXattrs(gone)
	}
	if len(come) > 0 {
		d.New = encodeXattrs(come)
	}
	c.found = append(c.found, d)
}

// covered leaves out what the rule does not ask for.
func (c *comparison) covered(xattrs []filewatch.Xattr) []filewatch.Xattr {
	return slices.DeleteFunc(xattrs, func(x filewatch.Xattr) bool { return !c.check.CoversXattr(x.Name) })
}

// missingXattrs gives the xattrs of a that b does not have with the same value.
func missingXattrs(a, b []filewatch.Xattr) []filewatch.Xattr {
	var out []filewatch.Xattr
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y filewatch.Xattr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) }) {
			out = append(out, x)
		}
	}
	return out
}
