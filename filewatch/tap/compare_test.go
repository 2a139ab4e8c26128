package tap

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5, time.UTC)

// file is a settled file of many properties, changed by each of change.
func file(change ...func(*State)) *State {
	s := &State{Object: filewatch.Object{Volume: "v", Inode: 12, Generation: 7, Type: filewatch.TypeFile, Mode: 0o644, Nlink: 1, Size: 3,
		Mtime: noon, Ctime: noon, Crtime: noon, Xattrs: []filewatch.Xattr{{Name: "user.a", Value: []byte("1")}}},
		Names: []string{"/a"}, BLAKE3: Digest{1}}
	for _, f := range change {
		f(s)
	}
	return s
}

func dir(s *State)                       { s.Type, s.BLAKE3 = filewatch.TypeDir, Digest{} }
func named(names ...string) func(*State) { return func(s *State) { s.Names = names } }
func written(s *State) {
	s.BLAKE3, s.Mtime, s.Ctime = Digest{2}, noon.Add(time.Second), noon.Add(time.Second)
}
func later(s *State)      { s.Ctime = s.Ctime.Add(time.Second) }
func undigested(s *State) { s.BLAKE3 = Digest{} }

// words are operations in words, one each.
func words(ops []Operation) []string {
	var out []string
	for _, o := range ops {
		text := o.Op.String() + " " + o.Path
		if o.NewPath != "" {
			text += " -> " + o.NewPath
		}
		if o.Detail != "" {
			text += ": " + o.Detail
		}
		out = append(out, text)
	}
	return out
}

func TestCompare(t *testing.T) {
	const undone = "utimes /a: only its time of change differs: what was done to it was undone"
	for name, c := range map[string]struct {
		old, new *State
		want     []string
	}{
		"nothing":              {file(), file(), nil},
		"read":                 {file(), file(func(s *State) { s.Atime = noon.Add(time.Hour) }), nil},
		"create":               {nil, file(), []string{"create /a"}},
		"create with two":      {nil, file(named("/a", "/b")), []string{"create /a", "link /a -> /b"}},
		"mkdir":                {nil, file(dir), []string{"mkdir /a"}},
		"symlink":              {nil, file(func(s *State) { s.Type = filewatch.TypeSymlink }), []string{"symlink /a"}},
		"mknod":                {nil, file(func(s *State) { s.Type = filewatch.TypeFIFO }), []string{"mknod /a"}},
		"unlink":               {file(named("/a", "/b")), nil, []string{"unlink /a", "unlink /b"}},
		"rmdir":                {file(dir), nil, []string{"rmdir /a"}},
		"write":                {file(), file(written), []string{"write /a"}},
		"rename":               {file(), file(later, named("/b")), []string{"rename /a -> /b"}},
		"rename and write":     {file(), file(written, named("/b")), []string{"rename /a -> /b", "write /b"}},
		"hard link":            {file(named("/b")), file(later, named("/a", "/b")), []string{"link /b -> /a"}},
		"first name":           {file(named()), file(later, named("/b")), []string{"link  -> /b: no directory named it until now"}},
		"first names":          {file(named()), file(later, named("/b", "/c")), []string{"link  -> /b: no directory named it until now", "link /b -> /c"}},
		"no name yet":          {nil, file(named()), []string{"create "}},
		"end without a name":   {file(named()), nil, []string{"unlink : no directory named it"}},
		"unlink of one":        {file(named("/a", "/b")), file(later, named("/b")), []string{"unlink /a"}},
		"one of two renamed":   {file(named("/a", "/b")), file(later, named("/b", "/c")), []string{"rename /a -> /c"}},
		"inode used again":     {file(), file(named("/b"), func(s *State) { s.Generation++ }), []string{"unlink /a", "create /b"}},
		"used again, same":     {file(), file(func(s *State) { s.Generation++ }), []string{"unlink /a", "create /a"}},
		"another type":         {file(), file(dir), []string{"unlink /a", "mkdir /a"}},
		"no generations":       {file(func(s *State) { s.Generation = 0 }), file(later, named("/b"), func(s *State) { s.Generation = 0 }), []string{"rename /a -> /b"}},
		"no generations, used": {file(func(s *State) { s.Generation = 0 }), file(named("/b"), func(s *State) { s.Generation = 0; s.Crtime = noon.Add(time.Second) }), []string{"unlink /a", "create /b"}},
		"another link":         {file(func(s *State) { s.Type, s.Link = filewatch.TypeSymlink, "x" }), file(func(s *State) { s.Type, s.Link = filewatch.TypeSymlink, "y" }), []string{"unlink /a", "symlink /a"}},
		"times put back": {file(), file(written, func(s *State) { s.Mtime = noon }),
			[]string{"write /a: its time of modification is what it was"}},
		"all times put back": {file(), file(func(s *State) { s.BLAKE3 = Digest{2} }),
			[]string{"write /a: its time of modification is what it was"}},
		"time set back": {file(), file(written, func(s *State) { s.Mtime = noon.Add(-time.Hour) }),
			[]string{"write /a", "utimes /a: its time of modification was set back from 2026-01-02T12:00:00.000000005Z"}},
		"same content again": {file(), file(written, func(s *State) { s.BLAKE3 = Digest{1} }),
			[]string{"utimes /a: nothing else differs: its times were set, or it was written anew with the same content"}},
		"undone":                {file(), file(later), []string{undone}},
		"chmod":                 {file(), file(later, func(s *State) { s.Mode = 0o4755 }), []string{"chmod /a"}},
		"chown":                 {file(), file(later, func(s *State) { s.GID = 5 }), []string{"chown /a"}},
		"attribute set":         {file(), file(later, func(s *State) { s.Xattrs[0].Value = []byte("2") }), []string{"setxattr /a: user.a"}},
		"attribute removed":     {file(), file(later, func(s *State) { s.Xattrs = nil }), []string{"setxattr /a: user.a"}},
		"security attribute":    {file(), file(later, func(s *State) { s.Xattrs = append(s.Xattrs, filewatch.Xattr{Name: "security.x"}) }), []string{"setacl /a: security.x"}},
		"ACL":                   {file(), file(later, func(s *State) { s.Xattrs = append(s.Xattrs, filewatch.Xattr{Name: "system.posix_acl_access"}) }), []string{"setacl /a: system.posix_acl_access"}},
		"immutable":             {file(), file(later, func(s *State) { s.Flags = filewatch.FlagImmutable }), []string{"setflags /a"}},
		"flag of the kernel":    {file(), file(func(s *State) { s.Flags = 0x1000 }), nil},
		"project":               {file(), file(later, func(s *State) { s.Project = 4 }), []string{"setflags /a: project"}},
		"entry of a directory":  {file(dir), file(dir, func(s *State) { s.Mtime, s.Ctime, s.Size, s.Nlink = noon.Add(1), noon.Add(1), 9, 3 }), nil},
		"directory's times":     {file(dir), file(dir, later, func(s *State) { s.Mtime = noon.Add(5) }), []string{"utimes /a: nothing else differs: its times were set, or it was written anew with the same content"}},
		"directory undone":      {file(dir), file(dir, later), []string{undone}},
		"not digested, size":    {file(undigested), file(undigested, written, undigested, func(s *State) { s.Size = 9 }), []string{"write /a"}},
		"not digested, written": {file(undigested), file(written, undigested), []string{"write /a: by its time of modification: the content was not compared"}},
		"not digested, touched": {file(undigested), file(undigested, later, func(s *State) { s.Mtime = noon.Add(time.Hour) }), []string{"utimes /a: nothing else differs: its times were set, or it was written anew with the same content"}},
		"readable again":        {file(undigested, func(s *State) { s.Unread = "bad block" }), file(), []string{"write /a: it was not read at the look before"}},
		"unreadable":            {file(), file(undigested, func(s *State) { s.Unread = "bad block" }), []string{"unknown /a: bad block"}},
		"read later":            {file(), file(func(s *State) { s.Left, s.Unread = true, "later" }), nil},
		"read later, times": {file(), file(later, func(s *State) { s.Left, s.Unread = true, "later" }),
			[]string{"utimes /a: its times differ; whether its content does is not known: later"}},
		"unreadable directory": {file(dir), file(dir, func(s *State) { s.Unread = "bad block" }), []string{"unknown /a: bad block"}},
		"no name any more":     {file(), file(named(), func(s *State) { s.Unread = "no directory names inode 12" }), []string{"unknown /a: no directory names inode 12"}},
	} {
		if d := cmp.Diff(c.want, words(Compare(c.old, c.new))); d != "" {
			t.Errorf("%s (want, got):\n%s", name, d)
		}
	}
}

// An object of very many names does not hold up a look: each is looked up, not searched
// for among the others.
func TestCompareOfManyNames(t *testing.T) {
	many := func(prefix string, n int) func(*State) {
		return func(s *State) {
			s.Names = nil
			for i := range n {
				s.Names = append(s.Names, fmt.Sprintf("/%s%06d", prefix, i))
			}
		}
	}
	const n = 30_000
	count := map[filewatch.Op]int{}
	for _, o := range Compare(file(many("a", n)), file(later, many("b", 2*n))) {
		count[o.Op]++
	}
	if count[filewatch.OpRename] != n || count[filewatch.OpLink] != n {
		t.Errorf("operations %v", count)
	}
}

// A state comes back from its encoding as it was.
func TestStateRoundTrip(t *testing.T) {
	for name, s := range map[string]*State{
		"left": file(func(s *State) { s.Left = true }),
		"cut":  file(func(s *State) { s.Cut, s.Strictest = true, "/s" }),
		"full": file(named("/a\xff", "/b\x00c"), func(s *State) {
			s.Link, s.Major, s.Minor, s.Flags, s.Project, s.Unread, s.Unsettled, s.SHA256 = "x", 8, 1, 0x80010, 3, "why", true, Digest{9}
		}),
		"empty": {Object: filewatch.Object{Volume: "", Inode: 1}},
	} {
		entry := appendState(nil, s)
		key, body := split(entry)
		if want := appendKey(nil, s.Volume, s.Inode); !bytes.Equal(key, want) {
			t.Errorf("%s: key %x, want %x", name, key, want)
		}
		got, err := parseState(key, body)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		for n := range body {
			if _, err := parseState(key, body[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are a state", name, n, len(body))
			}
		}
	}
}
