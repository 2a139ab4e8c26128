package baseline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/durable"
)

var testProgressKey = ProgressKey{7: 7}

// there is a content's place.
type there struct {
	place     [32]byte
	untouched bool
}

func (w there) Place() [32]byte { return w.place }
func (w there) Untouched() bool { return w.untouched }

// inMemory is a file that is none.
type inMemory struct{ b []byte }

func (m *inMemory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(b, off)
}
func (m *inMemory) Close() error { return nil }
func (m *inMemory) Truncate(size int64) error {
	m.b = m.b[:size]
	return nil
}
func (m *inMemory) WriteAt(b []byte, off int64) (int, error) {
	m.b = append(m.b[:off], b...)
	return len(b), nil
}

func inBytes(b []byte) *Progress {
	return newProgress(&inMemory{bytes.Clone(b)}, int64(len(b)), testProgressKey, "a", "b")
}

// progressOf makes a file with n contents and gives what is in it.
func progressOf(t testing.TB, n int) (file []byte, want []*Record) {
	t.Helper()
	p := inBytes(nil)
	m := p.file.(*inMemory)
	if err := p.Begin(&ProgressPart{Taken: time.Unix(1, 0).UTC(), Source: json.RawMessage(`{}`), Moment: json.RawMessage(`[]`)}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r := &Record{Object: filewatch.Object{Volume: "v", Inode: uint64(10 + i), Generation: 5, Type: filewatch.TypeFile, Size: int64(i)}, Names: []string{fmt.Sprint("/f", i)}}
		r.BLAKE3[i%32] = 1
		if i%2 == 0 {
			r.SHA256[i%32], r.Text = 2, Text{TextKept, []byte("x")}
		}
		p.expect(&r.Object, [32]byte{byte(i)}, nil)
		var scratch []byte
		if err := p.keep(appendRecord(nil, r, &scratch)); err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return m.b, want
}

// readProgress gives how many of the records are known, and why none is.
func readProgress(t testing.TB, file []byte, want []*Record) (known int, lost string) {
	t.Helper()
	p := inBytes(file)
	for i, r := range want {
		c := p.known(&r.Object, there{[32]byte{byte(i)}, true})
		if c == nil {
			continue
		}
		known++
		if d := cmp.Diff([]any{r.BLAKE3, r.SHA256, r.Text, r.Size}, []any{c.record.BLAKE3, c.record.SHA256, c.record.Text, c.record.Size}); d != "" {
			t.Fatalf("record %d: %s", i, d)
		}
	}
	if known != p.Contents() {
		t.Fatalf("%d contents are known of %d", known, p.Contents())
	}
	return known, p.Lost
}

func TestProgressComesBack(t *testing.T) {
	file, want := progressOf(t, 20)
	if n, lost := readProgress(t, file, want); n != 20 || lost != "" {
		t.Errorf("%d of 20 contents come back, lost: %q", n, lost)
	}
	p := inBytes(file)
	o := want[3].Object
	for name, c := range map[string]struct {
		o  filewatch.Object
		at there
	}{
		"elsewhere":                {o, there{[32]byte{4}, true}},
		"touched":                  {o, there{[32]byte{3}, false}},
		"another use of the inode": {filewatch.Object{Volume: "v", Inode: o.Inode, Generation: 6}, there{[32]byte{3}, true}},
		"another volume":           {filewatch.Object{Volume: "w", Inode: o.Inode, Generation: 5}, there{[32]byte{3}, true}},
		"never read":               {filewatch.Object{Volume: "v", Inode: 9}, there{[32]byte{3}, true}},
	} {
		if p.known(&c.o, c.at) != nil {
			t.Errorf("%s: its content is taken over", name)
		}
	}
}

func TestProgressFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "progress")
	p, err := OpenProgress(path, testProgressKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Begin(&ProgressPart{Source: json.RawMessage(`{}`), Moment: json.RawMessage(`[]`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenProgress(path, testProgressKey); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenProgress(path, testProgressKey); err == nil {
		t.Error("a file that others may write is used")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = OpenProgress(path, testProgressKey); err != nil || len(p.Parts()) != 1 {
		t.Fatal(p, err)
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

// However much of the end is missing: what is whole before it comes back, and the
// scan goes on behind it.
func TestProgressTornAnywhere(t *testing.T) {
	whole, want := progressOf(t, 6)
	last := 0
	for n := range whole {
		known, lost := readProgress(t, whole[:n], want)
		if known < last || n >= progressHead && lost != "" {
			t.Fatalf("%d of %d bytes: %d contents after %d with fewer bytes, lost: %q", n, len(whole), known, last, lost)
		}
		last = known
		p := inBytes(whole[:n])
		if err := p.Begin(&ProgressPart{Source: json.RawMessage(`{}`), Moment: json.RawMessage(`[]`)}); err != nil {
			t.Fatal(err)
		}
		if p.flush(); p.err != nil {
			t.Fatal(p.err)
		}
		if again, lost := readProgress(t, p.file.(*inMemory).b, want); again != known || lost != "" {
			t.Fatalf("%d of %d bytes, gone on: %d contents, before %d, lost: %q", n, len(whole), again, known, lost)
		}
	}
	if last != 5 {
		t.Errorf("without the last byte %d of 6 contents come back", last)
	}
}

// No byte can be changed, no record moved, left out or brought from another file
// without the whole being refused; what comes back is what was written.
func TestDetectsForgedProgress(t *testing.T) {
	whole, want := progressOf(t, 6)
	other, _ := progressOf(t, 6)
	one := (len(whole) - progressHead - 21) // about: the records differ in size
	forged := map[string][]byte{
		"left out": append(bytes.Clone(whole[:progressHead+21]), whole[progressHead+21+one/6:]...),
		"brought":  append(bytes.Clone(whole[:len(whole)-10]), other[len(whole)-10:]...),
		"spliced":  append(bytes.Clone(other[:progressHead]), whole[progressHead:]...),
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		forged[fmt.Sprintf("byte %d", i)] = b
	}
	refused := 0
	for name, b := range forged {
		n, lost := readProgress(t, b, want)
		if n == len(want) {
			t.Errorf("%s: nothing is seen of it", name)
		}
		if lost != "" {
			refused++
			if n > 0 {
				t.Errorf("%s: refused (%s), and %d contents are taken over", name, lost, n)
			}
		}
	}
	// A length that points behind the end looks like a torn end.
	if most := 4 * (len(want) + 2); refused < len(forged)-most {
		t.Errorf("%d of %d forgeries are refused", refused, len(forged))
	}
}

func TestProgressOfOthersIsRefused(t *testing.T) {
	file, want := progressOf(t, 3)
	for name, c := range map[string]struct {
		key    ProgressKey
		bind   []string
		reason string
	}{
		"another key":  {ProgressKey{1}, []string{"a", "b"}, "without the key"},
		"another scan": {testProgressKey, []string{"ab", ""}, "another machine, with other rules or against another baseline"},
	} {
		p := newProgress(&inMemory{file}, int64(len(file)), c.key, c.bind...)
		if !strings.Contains(p.Lost, c.reason) || p.Contents() > 0 || p.known(&want[0].Object, there{untouched: true}) != nil {
			t.Errorf("%s: %q, %d contents", name, p.Lost, p.Contents())
		}
	}
}

func TestProgressKeyIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "key")
	key, err := LoadOrCreateProgressKey(path)
	if err != nil || key == (ProgressKey{}) {
		t.Fatal(key, err)
	}
	if again, err := LoadOrCreateProgressKey(path); err != nil || again != key {
		t.Errorf("the second time: %v, %v", again == key, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateProgressKey(path); err == nil {
		t.Error("a key that others may read is used")
	}
}

// FuzzProgress feeds files whose first bytes may be anything, and bodies that
// someone with the key wrote.
func FuzzProgress(f *testing.F) {
	whole, want := progressOf(f, 3)
	f.Add(whole, []byte{})
	c := progressContent{record: *want[0], kept: true}
	f.Add(whole, append([]byte{contentRecord}, c.append(nil)...))
	f.Add(whole[:progressHead], []byte(`p{"source":1}`))
	f.Fuzz(func(t *testing.T, file, body []byte) {
		p := inBytes(file)
		m := p.file.(*inMemory)
		if len(p.parts) == 0 && (len(p.index) > 0 || p.mac != nil) {
			t.Fatal("contents without a beginning")
		}
		if len(body) > 0 && p.mac != nil {
			p.append(body[0], body[1:])
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = inBytes(m.b)
		for _, e := range p.index {
			if text, err := p.readAt(e.at); err != nil {
				t.Fatal(err)
			} else if _, err := decodeContent(text); err != nil {
				t.Fatal(err)
			}
		}
		c, err := decodeContent(body)
		if (c == nil) == (err == nil) {
			t.Fatalf("content %v, error %v", c, err)
		}
		if c != nil && !bytes.Equal(c.append(nil), body) && len(c.append(nil)) > len(body) {
			t.Fatal("encodes longer than it was")
		}
	})
}
