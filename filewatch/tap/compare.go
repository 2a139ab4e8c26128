package tap

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Operation is one thing that was done to an object, or several that come to it, as
// two looks tell.
type Operation struct {
	Op filewatch.Op
	// Path and NewPath are as in [filewatch.Event]. Of a link Path is empty where the
	// object had no name before; of anything where no directory names it.
	Path, NewPath string
	// Object is as it is now, or was before it went.
	Object *filewatch.Object
	Detail string
}

// kernelFlags are inode flags that a file system sets by itself (linux/fs.h):
// FS_INDEX_FL, FS_HUGE_FILE_FL, FS_EXTENT_FL, FS_EA_INODE_FL, FS_EOFBLOCKS_FL and
// FS_INLINE_DATA_FL.
const kernelFlags = 0x1000 | 0x40000 | 0x80000 | 0x200000 | 0x400000 | 0x10000000

// Compare says what became of one inode between two looks, names first. Either state
// is nil where there was or is none. An inode that is another object now (another
// generation, or type) gives the end of the one and the beginning of the other.
func Compare(old, new *State) []Operation {
	switch {
	case old == nil && new == nil:
		return nil
	case old == nil:
		return created(new)
	case new == nil:
		return removed(old)
	case !sameObject(old, new):
		return append(removed(old), created(new)...)
	}
	c := comparison{old: old, new: new}
	c.names()
	c.content()
	c.security()
	c.attributes()
	c.times()
	if (len(c.found) == 0 || new.Cut && !old.Cut) && old.Unread != new.Unread && new.Unread != "" && !new.Left {
		c.add(filewatch.OpUnknown, new.Unread)
	}
	return c.found
}

// sameObject says that two states of one inode are of one object. Where the family
// has no generations the time of creation tells.
func sameObject(old, new *State) bool {
	if old.Type != new.Type || old.Generation != new.Generation || old.Link != new.Link || old.Major != new.Major || old.Minor != new.Minor {
		return false
	}
	return old.Generation != 0 || old.Crtime.Equal(new.Crtime)
}

// creation is the operation that makes an object of a type.
func creation(t filewatch.Type) filewatch.Op {
	switch t {
	case filewatch.TypeFile:
		return filewatch.OpCreate
	case filewatch.TypeDir:
		return filewatch.OpMkdir
	case filewatch.TypeSymlink:
		return filewatch.OpSymlink
	}
	return filewatch.OpMknod
}

// removal is the operation that takes a name of an object of a type.
func removal(t filewatch.Type) filewatch.Op {
	if t == filewatch.TypeDir {
		return filewatch.OpRmdir
	}
	return filewatch.OpUnlink
}

func created(s *State) []Operation {
	out := []Operation{{Op: creation(s.Type), Path: s.name(), Object: &s.Object, Detail: s.Unread}}
	for _, name := range s.Names[min(1, len(s.Names)):] {
		out = append(out, Operation{Op: filewatch.OpLink, Path: s.name(), NewPath: name, Object: &s.Object})
	}
	return out
}

func removed(s *State) (out []Operation) {
	for _, name := range s.Names {
		out = append(out, Operation{Op: removal(s.Type), Path: name, Object: &s.Object})
	}
	if len(out) == 0 {
		out = []Operation{{Op: removal(s.Type), Object: &s.Object, Detail: "no directory named it"}}
	}
	if s.Cut {
		out[len(out)-1].Detail = s.Unread
	}
	return out
}

// comparison is of two states of one object.
type comparison struct {
	old, new *State
	found    []Operation
}

func (c *comparison) add(op filewatch.Op, detail string) {
	path := c.new.name()
	if path == "" {
		path = c.old.name()
	}
	c.found = append(c.found, Operation{Op: op, Path: path, Object: &c.new.Object, Detail: detail})
}

// names takes names that went and names that came for renames as far as there are
// both.
func (c *comparison) names() {
	old, new := c.old.Names, c.new.Names
	for _, s := range [...]*State{c.old, c.new} {
		if s.Cut && len(s.Names) > 0 { // up to the last one all are there
			last := s.Names[len(s.Names)-1]
			old, new = until(old, last), until(new, last)
		}
	}
	gone, come := missing(old, new), missing(new, old)
	if len(c.new.Names) == 0 && len(gone) > 0 {
		// It is there and nothing names it: a directory could not be read, or lies.
		c.add(filewatch.OpUnknown, c.new.Unread)
		return
	}
	add := func(op filewatch.Op, path, newPath string) {
		c.found = append(c.found, Operation{Op: op, Path: path, NewPath: newPath, Object: &c.new.Object})
	}
	for len(gone) > 0 && len(come) > 0 {
		add(filewatch.OpRename, gone[0], come[0])
		gone, come = gone[1:], come[1:]
	}
	for _, name := range gone {
		add(removal(c.new.Type), name, "")
	}
	if len(come) == 0 {
		return
	}
	if len(c.old.Names) == 0 && !c.old.Cut {
		// linkat(2) of what O_TMPFILE opened; or a directory could not be read before.
		c.found = append(c.found, Operation{Op: filewatch.OpLink, NewPath: come[0], Object: &c.new.Object, Detail: "no directory named it until now"})
		come = come[1:]
	}
	from := c.new.Names[0]
	if i := slices.IndexFunc(c.new.Names, func(n string) bool { _, had := slices.BinarySearch(c.old.Names, n); return had }); i >= 0 {
		from = c.new.Names[i]
	}
	for _, name := range come {
		add(filewatch.OpLink, from, name)
	}
}

// until gives the names up to and with last.
func until(names []string, last string) []string {
	i, ok := slices.BinarySearch(names, last)
	if ok {
		i++
	}
	return names[:i]
}

// missing gives the strings of a, which is sorted as b is, that b does not have.
func missing(a, b []string) (out []string) {
	for _, s := range a {
		if _, ok := slices.BinarySearch(b, s); !ok {
			out = append(out, s)
		}
	}
	return out
}

// content tells a write by the digests of before and after. A content that was not read
// before may be another. Where the rules ask for none it is told by size and times.
func (c *comparison) content() {
	old, new := c.old, c.new
	if new.Type != filewatch.TypeFile {
		return
	}
	var detail string
	switch same, known := sameContent(old, new); {
	case known && same:
		return
	case known || old.Size != new.Size:
		detail = new.Unread
	case old.Unread != "" && new.Unread == "" && (new.BLAKE3 != Digest{} || new.SHA256 != Digest{}):
		detail = "it was not read at the look before"
	case !old.Mtime.Equal(new.Mtime) && new.Mtime.Equal(new.Ctime):
		detail = "by its time of modification: the content was not compared"
	default:
		return
	}
	if detail == "" && !new.Mtime.IsZero() && old.Mtime.Equal(new.Mtime) {
		detail = "its time of modification is what it was"
	}
	c.add(filewatch.OpWrite, detail)
}

// sameContent compares the contents; known is false where they have no digest in
// common.
func sameContent(old, new *State) (same, known bool) {
	same = old.Size == new.Size
	for _, d := range [...][2]Digest{{old.BLAKE3, new.BLAKE3}, {old.SHA256, new.SHA256}} {
		if d[0] != (Digest{}) && d[1] != (Digest{}) {
			same, known = same && d[0] == d[1], true
		}
	}
	return same, known
}

func (c *comparison) security() {
	old, new := c.old, c.new
	if old.Mode != new.Mode {
		c.add(filewatch.OpChmod, "")
	}
	if old.UID != new.UID || old.GID != new.GID {
		c.add(filewatch.OpChown, "")
	}
	if names := c.xattrs(securityXattr); names != "" {
		c.add(filewatch.OpSetACL, names)
	}
}

func (c *comparison) attributes() {
	if names := c.xattrs(func(name string) bool { return !securityXattr(name) }); names != "" {
		c.add(filewatch.OpSetXattr, names)
	}
	if (c.old.Flags^c.new.Flags)&^kernelFlags != 0 {
		c.add(filewatch.OpSetFlags, "")
	}
	if c.old.Project != c.new.Project {
		c.add(filewatch.OpSetFlags, "project")
	}
}

// securityXattr says that an extended attribute is an ACL, a capability or a label.
func securityXattr(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "system.")
}

// xattrs names the extended attributes of a kind that differ.
func (c *comparison) xattrs(of func(name string) bool) string {
	var names []string
	for _, pair := range [...][2]*State{{c.old, c.new}, {c.new, c.old}} {
		for _, x := range pair[0].Xattrs {
			if value, ok := pair[1].Xattr(x.Name); of(x.Name) && !(ok && bytes.Equal(value, x.Value)) && !slices.Contains(names, x.Name) {
				names = append(names, x.Name)
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// times tells of times that were set, and of a change that only they show. What
// changes them besides was told before: an entry of a directory sets those of the
// directory, whatever else is done to an object its time of change.
func (c *comparison) times() {
	old, new := c.old, c.new
	back := new.Mtime.Before(old.Mtime)
	if new.Type == filewatch.TypeDir {
		// An entry that comes or goes makes both times one.
		entry := !old.Mtime.Equal(new.Mtime) && (new.Mtime.Equal(new.Ctime) || new.Ctime.IsZero())
		if entry && !back {
			return
		}
	}
	switch {
	case back:
		c.add(filewatch.OpUtimes, "its time of modification was set back from "+old.Mtime.UTC().Format(time.RFC3339Nano))
	case len(c.found) > 0:
	case new.Cut && !old.Ctime.Equal(new.Ctime):
		c.add(filewatch.OpUtimes, "its times differ; whether more does is not known: "+new.Unread)
	case new.Unread != "" && !(old.Mtime.Equal(new.Mtime) && old.Ctime.Equal(new.Ctime)):
		c.add(filewatch.OpUtimes, "its times differ; whether its content does is not known: "+new.Unread)
	case !old.Mtime.Equal(new.Mtime):
		c.add(filewatch.OpUtimes, "nothing else differs: its times were set, or it was written anew with the same content")
	case !old.Ctime.Equal(new.Ctime):
		c.add(filewatch.OpUtimes, "only its time of change differs: what was done to it was undone")
	}
}
