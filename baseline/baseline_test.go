package baseline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// files is a source in memory: objects by inode, visited in random order.
type files struct {
	volume  string
	objects map[uint64]*file
	gaps    []filewatch.Gap
}

type file struct {
	filewatch.Object
	names   []string
	content string
	// lasting and torn are those of lastingFile.
	lasting, torn bool
	damage        error
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

func newFiles() *files { return &files{volume: "vol-1", objects: map[uint64]*file{}} }

// put adds a regular file and returns it for changes.
func (fs *files) put(inode uint64, content string, names ...string) *file {
	f := &file{Object: filewatch.Object{Volume: fs.volume, Inode: inode, Generation: 7, Type: filewatch.TypeFile, Mode: 0o644,
		Nlink: uint32(len(names)), Size: int64(len(content)), Mtime: epoch, Ctime: epoch}, names: names, content: content}
	fs.objects[inode] = f
	return f
}

func (fs *files) Machine() filewatch.Machine { return filewatch.Machine{Volumes: []string{fs.volume}} }

func (fs *files) Scan(_ context.Context, want WantFunc, visit VisitFunc) ([]filewatch.Gap, error) {
	inodes := slices.Collect(maps.Keys(fs.objects))
	rand.Shuffle(len(inodes), func(i, j int) { inodes[i], inodes[j] = inodes[j], inodes[i] })
	for _, inode := range inodes {
		f := fs.objects[inode]
		var content io.Reader
		if f.Type == filewatch.TypeFile && f.damage == nil && want(&f.Object, f.names) {
			content = strings.NewReader(f.content)
			if f.lasting {
				content = lastingFile{content, f.content, f.torn}
			}
		}
		if err := visit(&f.Object, f.names, content, f.damage); err != nil {
			return nil, err
		}
	}
	return fs.gaps, nil
}

// key is a signing key for tests; every call makes another.
func key(t testing.TB) *sign.Key {
	t.Helper()
	k, err := sign.LoadOrCreateKey(t.TempDir() + "/key")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func snapshot(t testing.TB, src Source, o *CaptureOptions) *Snapshot {
	t.Helper()
	s, err := Capture(context.Background(), src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func write(t testing.TB, s *Snapshot, k sign.Signer) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := s.Write(&out, &Edition{Tool: "test", Created: epoch, Lineage: "l", Version: 1}, k); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func trusting(k sign.Signer) *OpenOptions {
	return &OpenOptions{Trusted: []sign.PublicKey{k.Public()}}
}

func open(t testing.TB, data []byte, k sign.Signer) *Baseline {
	t.Helper()
	b, err := OpenBytes(data, trusting(k))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func records(t testing.TB, b *Baseline) []*Record {
	t.Helper()
	var out []*Record
	for r, err := range b.Records() {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// check captures now and compares it with a baseline of before.
func check(t testing.TB, before, now *files, rules *filewatch.Rules) *Report {
	t.Helper()
	k := key(t)
	b := open(t, write(t, snapshot(t, before, &CaptureOptions{Rules: rules}), k), k)
	o := &CaptureOptions{Rules: rules}
	if err := o.Follow(b); err != nil {
		t.Fatal(err)
	}
	report, err := Compare(b, snapshot(t, now, o))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// brief is a change in one line.
func brief(r *Report) []string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, fmt.Sprintf("%s %s %v %v", c.Kind, c.Path, c.Attributes.Names(), c.Suspicious))
	}
	return out
}

func everyKind() *files {
	fs := newFiles()
	fs.put(11, "#!/bin/sh\n", "/bin/a", "/bin/b").Mode = 0o755
	f := fs.put(12, "", "/etc/\xff\\")
	f.Xattrs = []filewatch.Xattr{{Name: "security.capability", Value: []byte{1, 0}}, {Name: "user.x", Value: nil}}
	f.Flags = filewatch.FlagImmutable
	link := fs.put(13, "", "/l")
	link.Type, link.Link = filewatch.TypeSymlink, "a\xfe"
	dev := fs.put(14, "", "/dev/sda1")
	dev.Type, dev.Major, dev.Minor = filewatch.TypeBlock, 8, 1
	old := fs.put(15, "x", "/old")
	old.Mtime, old.Ctime = time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC), time.Time{}
	dir := fs.put(2, "", "/")
	dir.Type, dir.Nlink, dir.Size = filewatch.TypeDir, 5, 4096
	return fs
}

func TestRoundTrip(t *testing.T) {
	fs, k := everyKind(), key(t)
	b := open(t, write(t, snapshot(t, fs, nil), k), k)
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	got := records(t, b)
	var paths []string
	for _, r := range got {
		paths = append(paths, r.Path())
		f := fs.objects[r.Inode]
		if diff := cmp.Diff(f.Object, r.Object, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(f.names, r.Names); diff != "" {
			t.Error(diff)
		}
		if (r.BLAKE3 != Digest{}) != (r.Type == filewatch.TypeFile) || (r.SHA256 != Digest{}) {
			t.Errorf("%s: digests %s %s", r.Path(), r.BLAKE3, r.SHA256)
		}
		text, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var back Record
		if err := back.UnmarshalJSON(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(r, &back, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); diff != "" {
			t.Errorf("through JSON: %s", diff)
		}
	}
	if !slices.IsSorted(paths) {
		t.Errorf("not sorted: %q", paths)
	}
}

// The same objects give the same bytes in whatever order they come.
func TestDeterministic(t *testing.T) {
	fs, k := everyKind(), key(t)
	for i := range 5000 {
		fs.put(uint64(100+i), fmt.Sprint(i), fmt.Sprintf("/many/%d", i))
	}
	first := write(t, snapshot(t, fs, nil), k)
	for range 3 {
		if !bytes.Equal(first, write(t, snapshot(t, fs, nil), k)) {
			t.Fatal("another capture gives other bytes")
		}
	}
}

// More records than one run holds are sorted through the temporary file.
func TestSpills(t *testing.T) {
	fs, k := newFiles(), key(t)
	long := strings.Repeat("x", 3000)
	const n = 12000
	for i := range n {
		fs.put(uint64(i+1), "", fmt.Sprintf("/%07d%s", (i*7919)%n, long))
	}
	s := snapshot(t, fs, nil)
	if len(s.sorter.runs) == 0 {
		t.Fatal("nothing was spilled")
	}
	b := open(t, write(t, s, k), k)
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	if got := len(records(t, b)); got != n {
		t.Fatalf("%d records, want %d", got, n)
	}
	if again := slices.Collect(maps.Keys(fs.objects)); len(again) != n {
		t.Fatal("test is wrong")
	}
	if r, err := Compare(b, s); err != nil || r.Outcome() != "pass" {
		t.Fatalf("%v %v", r, err)
	}
}

// TestRefusesTampering is every attack on the file itself; its benign twin is
// the same baseline untouched.
func TestRefusesTampering(t *testing.T) {
	k := key(t)
	good := write(t, snapshot(t, everyKind(), nil), k)
	if _, err := OpenBytes(good, trusting(k)); err != nil {
		t.Fatalf("benign twin: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := OpenBytes(bad, trusting(k)); err == nil {
			t.Fatalf("byte %d of %d flipped: opened", i, len(good))
		}
	}
	for n := range good {
		if _, err := OpenBytes(good[:n], trusting(k)); err == nil {
			t.Fatalf("cut to %d bytes: opened", n)
		}
	}
	if _, err := OpenBytes(good, trusting(key(t))); !errors.Is(err, sign.ErrUntrusted) {
		t.Errorf("signed by another key: %v", err)
	}
	if _, err := OpenBytes(good, &OpenOptions{}); err == nil {
		t.Error("opened without any trusted key")
	}
}

func mustJSON(t *testing.T, b *Baseline) []byte {
	t.Helper()
	var out []byte
	for _, r := range records(t, b) {
		text, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, text...)
	}
	return out
}

func TestRefusesRollbackAndOtherMachine(t *testing.T) {
	k := key(t)
	data := write(t, snapshot(t, everyKind(), nil), k)
	o := trusting(k)
	o.LeastVersion, o.Machine = 1, &filewatch.Machine{Volumes: []string{"vol-1", "vol-2"}}
	if _, err := OpenBytes(data, o); err != nil {
		t.Fatalf("benign twin: %v", err)
	}
	o.LeastVersion = 2
	if _, err := OpenBytes(data, o); !errors.Is(err, ErrRollback) {
		t.Errorf("rollback: %v", err)
	}
	o.LeastVersion, o.Machine = 1, &filewatch.Machine{Volumes: []string{"vol-9"}}
	if _, err := OpenBytes(data, o); !errors.Is(err, ErrOtherMachine) {
		t.Errorf("other machine: %v", err)
	}
}

func TestAnySignerThenReissue(t *testing.T) {
	agent, verifier := key(t), key(t)
	data := write(t, snapshot(t, everyKind(), nil), agent)
	b, err := OpenBytes(data, &OpenOptions{AnySigner: true})
	if err != nil {
		t.Fatal(err)
	}
	if b.Signer != nil {
		t.Fatal("an unverified signer is named")
	}
	var out bytes.Buffer
	if _, err := Reissue(b, &Edition{Lineage: "x", Version: 9, Created: epoch, Name: "vm1"}, &out, verifier); err != nil {
		t.Fatal(err)
	}
	again := open(t, out.Bytes(), verifier)
	if again.Header.Version != 9 || again.Header.Machine.Name != "vm1" || !bytes.Equal(mustJSON(t, b), mustJSON(t, again)) {
		t.Fatalf("got %+v", again.Header)
	}
	data[len(fileMagic)+3] ^= 1
	if _, err := OpenBytes(data, &OpenOptions{AnySigner: true}); err == nil {
		t.Fatal("a damaged body opened")
	}
}

func TestIndex(t *testing.T) {
	fs, k := everyKind(), key(t)
	for i := range 9000 {
		fs.put(uint64(100+i), "", fmt.Sprintf("/many/%d", i))
	}
	b := open(t, write(t, snapshot(t, fs, nil), k), k)
	if len(b.Header.Body.Blocks) < 2 {
		t.Fatal("one block only")
	}
	x, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs.objects {
		for _, name := range f.names {
			found, err := x.Path(name)
			if err != nil || len(found) != 1 || found[0].Inode != f.Inode {
				t.Fatalf("%q: %v, %v", name, found, err)
			}
		}
		if r, err := x.ID(f.ID()); err != nil || r == nil || r.Inode != f.Inode {
			t.Fatalf("%s: %v, %v", f.ID(), r, err)
		}
	}
	if found, err := x.Path("/none"); err != nil || found != nil {
		t.Fatalf("%v, %v", found, err)
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f)
	data := write(f, snapshot(f, everyKind(), nil), k)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := OpenBytes(data, &OpenOptions{AnySigner: true})
		if (b == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", b, err)
		}
		if b != nil {
			for r, err := range b.Records() {
				if (r == nil) == (err == nil) {
					t.Fatalf("value %v and error %v", r, err)
				}
			}
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	var scratch []byte
	for _, o := range everyKind().objects {
		appendRecord(nil, &Record{Object: o.Object, Names: o.names, BLAKE3: Digest{1}}, &scratch)
		f.Add(bytes.Clone(scratch))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRecord(body)
		if (r == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", r, err)
		}
		if r == nil {
			return
		}
		var again []byte
		appendRecord(nil, r, &again)
		if r2, err := decodeRecord(again); err != nil || !cmp.Equal(r, r2) {
			t.Fatalf("%v: %s", err, cmp.Diff(r, r2))
		}
	})
}

func FuzzRecordJSON(f *testing.F) {
	for _, o := range everyKind().objects {
		text, err := (&Record{Object: o.Object, Names: o.names}).MarshalJSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Record
		if r.UnmarshalJSON(text) == nil {
			if _, err := r.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
