package volumetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Features is what a family keeps; what it lacks is not compared.
type Features struct {
	// NoUnix families have no owners, modes, links or inode numbers of their own.
	NoUnix bool
	// NoTimes images have the time of their making.
	NoTimes bool
	// Ignore are paths that the tools put there themselves.
	Ignore []string
}

// Tool runs one of the families' tools and fails the test if it does.
func Tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Open opens the disk image at path.
func Open(tb testing.TB, name string) (*volume.Disk, *os.File) {
	tb.Helper()
	f, size := File(tb, name)
	d, err := volume.Open(f, size)
	if err != nil {
		tb.Fatal(err)
	}
	return d, f
}

// File opens a file until the test ends, and gives its size.
func File(tb testing.TB, name string) (*os.File, int64) {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	return f, st.Size()
}

// One opens a disk image that is one volume and must be measurable.
func One(tb testing.TB, name string) *volume.Volume {
	tb.Helper()
	d, _ := Open(tb, name)
	if len(d.Volumes) != 1 || d.Volumes[0].NotMeasured != "" {
		tb.Fatalf("image %s has volumes %+v, want one", name, d.Volumes[0])
	}
	return d.Volumes[0]
}

// Refused opens an image of one volume that cannot be read right, and wants the
// reason in words.
func Refused(t *testing.T, img, reason string) {
	t.Helper()
	d, _ := Open(t, img)
	v := d.Volumes[0]
	if !strings.Contains(v.NotMeasured, reason) || !errors.Is(v.Cause, filewatch.ErrNotSupported) {
		t.Errorf("not measured %q, want %q", v.NotMeasured, reason)
	}
}

// State is all that a reader says about a volume.
type State struct {
	Objects  map[uint64]*filewatch.Object
	Contents map[uint64]filewatch.Content
	Names    map[string]uint64
	Paths    map[uint64][]string
	Sums     map[uint64][]byte
	Damage   []error
}

// Read reads everything once by way of Objects and Names.
func Read(ctx context.Context, v *volume.Volume) (*State, error) {
	s := &State{Objects: map[uint64]*filewatch.Object{}, Contents: map[uint64]filewatch.Content{}, Names: map[string]uint64{}, Paths: map[uint64][]string{}, Sums: map[uint64][]byte{}}
	last := uint64(0)
	err := v.Objects(ctx, func(o *filewatch.Object, c filewatch.Content, damage error) error {
		if damage != nil {
			s.Damage = append(s.Damage, damage)
		}
		if o.Inode == 0 {
			return nil
		}
		if o.Inode <= last {
			return fmt.Errorf("inode %d after %d", o.Inode, last)
		}
		last = o.Inode
		c.Raw = bytes.Clone(c.Raw) // valid during the call only
		s.Objects[o.Inode], s.Contents[o.Inode] = o, c
		return nil
	})
	if err != nil {
		return s, err
	}
	type key struct {
		parent uint64
		name   string
	}
	entries := map[key]uint64{}
	children := map[uint64][]key{}
	err = v.Names(ctx, func(n filewatch.Name, damage error) error {
		if damage != nil {
			s.Damage = append(s.Damage, damage)
			return nil
		}
		k := key{n.Parent, string(n.Name)}
		entries[k] = n.Inode
		children[n.Parent] = append(children[n.Parent], k)
		return nil
	})
	var walk func(inode uint64, at string, depth int)
	walk = func(inode uint64, at string, depth int) {
		for _, k := range children[inode] {
			p := path.Join(at, k.name)
			if depth > 64 || len(s.Names) > 1_000_000 {
				return
			}
			s.Names[p] = entries[k]
			s.Paths[entries[k]] = append(s.Paths[entries[k]], p)
			walk(entries[k], p, depth+1)
		}
	}
	walk(v.Root(), "", 0)
	return s, err
}

// Check is the conformance suite: the volume holds exactly the tree, and all
// ways to read it agree.
func Check(t *testing.T, v *volume.Volume, want Tree, f Features) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s, err := Read(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Damage {
		t.Errorf("damage: %v", d)
	}
	checkTree(t, v, s, want.normal(), f)
	checkLinks(t, v, s, f)
	checkObject(t, v, s)
	checkScan(t, v, s, want.normal())
	checkNamesEnd(t, v)
	checkFS(t, v, s)
}

// row is what is compared of one name.
type row struct {
	Type         filewatch.Type
	Mode         uint16
	UID, GID     uint32
	Size         int64
	Mtime        time.Time
	Link         string
	Major, Minor uint32
	Xattrs       map[string]string
}

func rowOf(o *filewatch.Object, f Features) row {
	r := row{Type: o.Type, Mode: o.Mode, UID: o.UID, GID: o.GID, Size: o.Size, Mtime: o.Mtime, Link: o.Link, Major: o.Major, Minor: o.Minor}
	if o.Type == filewatch.TypeDir {
		r.Size = 0
	}
	for _, x := range o.Xattrs {
		if r.Xattrs == nil {
			r.Xattrs = map[string]string{}
		}
		r.Xattrs[x.Name] = string(x.Value)
	}
	if f.NoUnix {
		r.Mode, r.Mtime = 0, r.Mtime.Truncate(2*time.Second)
	}
	return r
}

func checkTree(t *testing.T, v *volume.Volume, s *State, want map[string]Entry, f Features) {
	t.Helper()
	got, exp := map[string]row{}, map[string]row{}
	for p, inode := range s.Names {
		if slices.Contains(f.Ignore, p) {
			continue
		}
		o := s.Objects[inode]
		if o == nil {
			t.Errorf("%q is inode %d, which Objects did not report", p, inode)
			continue
		}
		r := rowOf(o, f)
		if o.Type == filewatch.TypeSymlink || f.NoTimes {
			r.Mtime = want[p].Mtime // no tool sets that of links
		}
		got[p] = r
	}
	for p, e := range want {
		r := row{Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size(), Mtime: e.Mtime, Link: e.Link, Major: e.Major, Minor: e.Minor, Xattrs: e.Xattrs}
		if e.Type == filewatch.TypeSymlink {
			r.Size = int64(len(e.Link))
		}
		if f.NoUnix {
			r.Mode = 0
		}
		exp[p] = r
	}
	if d := cmp.Diff(exp, got); d != "" {
		t.Errorf("tree (-want +got):\n%s", d)
	}
	if o := s.Objects[v.Root()]; o == nil || o.Type != filewatch.TypeDir {
		t.Errorf("root is %+v", o)
	}
}

// checkLinks compares link counts with names, and that nothing is left over.
func checkLinks(t *testing.T, v *volume.Volume, s *State, f Features) {
	t.Helper()
	for inode, o := range s.Objects {
		if inode == v.Root() || f.NoUnix {
			continue
		}
		if names := s.Paths[inode]; len(names) == 0 || o.Type != filewatch.TypeDir && int(o.Nlink) != len(names) {
			t.Errorf("inode %d has %d links and the names %q", inode, o.Nlink, names)
		}
	}
}

// checkObject compares single reads with the scan.
func checkObject(t *testing.T, v *volume.Volume, s *State) {
	t.Helper()
	for inode, o := range s.Objects {
		got, c, err := v.Object(inode)
		if err != nil {
			t.Errorf("object %d: %v", inode, err)
			continue
		}
		if d := cmp.Diff(o, got); d != "" {
			t.Errorf("object %d alone differs from the scan (-scan +alone):\n%s", inode, d)
		}
		if d := cmp.Diff(s.Contents[inode], c); d != "" {
			t.Errorf("content of %d alone differs from the scan:\n%s", inode, d)
		}
	}
}

// checkNamesEnd ends a walk over the names by an error, after which no more come.
func checkNamesEnd(t *testing.T, v *volume.Volume) {
	t.Helper()
	stop, calls := errors.New("stop"), 0
	err := v.Names(t.Context(), func(filewatch.Name, error) error {
		if calls++; calls < 2 {
			return nil
		}
		return stop
	})
	if calls > 2 || calls == 2 && err != stop || calls < 2 && err != nil {
		t.Errorf("names that were to end at the second: %d calls, error %v", calls, err)
	}
}

// checkScan reads all contents in physical order, on one worker and on three, and
// again when the scan is over.
func checkScan(t *testing.T, v *volume.Volume, s *State, want map[string]Entry) {
	t.Helper()
	for _, o := range []*volume.ScanOptions{{Workers: 1}, {Workers: 3, Batch: 16}} {
		var mu sync.Mutex
		seen := map[uint64]bool{}
		var after []lasting
		err := v.Scan(t.Context(), o, func(o *filewatch.Object, _ []string, c *volume.Content, damage error) error {
			mu.Lock()
			defer mu.Unlock()
			if seen[o.Inode] {
				return fmt.Errorf("inode %d came twice", o.Inode)
			}
			seen[o.Inode] = true
			if c == nil {
				return nil
			}
			var b bytes.Buffer
			if n, err := io.Copy(&b, c); err != nil || n != o.Size {
				return fmt.Errorf("content of %d: %d of %d bytes, %v", o.Inode, n, o.Size, err)
			}
			for _, p := range s.Paths[o.Inode] {
				e := want[p]
				exp, _ := io.ReadAll(e.Reader())
				if !bytes.Equal(b.Bytes(), exp) {
					t.Errorf("content of %q differs", p)
				}
			}
			after = append(after, lasting{o.Inode, sha256.Sum256(b.Bytes()), c.Lasting(make([]byte, 5000))})
			return nil
		})
		for _, l := range after {
			l.check(t)
		}
		if err != nil || len(seen) != len(s.Objects) {
			t.Errorf("scan saw %d of %d objects: %v", len(seen), len(s.Objects), err)
		}
	}
}

// lasting is a content that is read after its scan.
type lasting struct {
	inode uint64
	want  [sha256.Size]byte
	next  func() ([]byte, error)
}

func (l *lasting) check(t *testing.T) {
	t.Helper()
	h := sha256.New()
	for {
		b, err := l.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("content of %d after the scan: %v", l.inode, err)
		}
		h.Write(b)
	}
	if got := h.Sum(nil); !bytes.Equal(got, l.want[:]) {
		t.Errorf("content of %d differs after the scan", l.inode)
	}
}

// checkFS reads the same by path.
func checkFS(t *testing.T, v *volume.Volume, s *State) {
	t.Helper()
	fsys := v.FS()
	count := 0
	err := fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		count++
		info, err := e.Info()
		if err != nil {
			return err
		}
		o := info.Sys().(*filewatch.Object)
		if o.Inode != s.Names[p] {
			return fmt.Errorf("%q is inode %d, want %d", p, o.Inode, s.Names[p])
		}
		if o.Type == filewatch.TypeSymlink {
			if to, err := fsys.ReadLink(p); err != nil || to != o.Link {
				return fmt.Errorf("link %q is %q, %v", p, to, err)
			}
		}
		if o.Type != filewatch.TypeFile || o.Size > 1<<20 {
			return nil
		}
		b, err := fs.ReadFile(fsys, p)
		if err != nil || int64(len(b)) != o.Size {
			return fmt.Errorf("read %q: %d of %d bytes, %v", p, len(b), o.Size, err)
		}
		return nil
	})
	if err != nil || count != len(s.Names) {
		t.Errorf("walk met %d of %d names: %v", count, len(s.Names), err)
	}
}
