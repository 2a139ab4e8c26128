package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

const cluster = 64 << 10

// snapshots makes a chain of n images in a directory, "0" a raw one and each of the
// others an overlay over the one before, with a cluster of its own at its number. It
// gives the last one.
func snapshots(t *testing.T, dir string, n int) string {
	t.Helper()
	base := filepath.Join(dir, "0")
	if err := os.WriteFile(base, bytes.Repeat([]byte{0xff}, (maxChain+2)*cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < n; i++ {
		format := "qcow2"
		if i == 1 {
			format = "raw"
		}
		path := filepath.Join(dir, fmt.Sprint(i))
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", fmt.Sprint(i-1), "-F", format, path)
		run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P %d %d %d", i, i*cluster, cluster), path)
	}
	return filepath.Join(dir, fmt.Sprint(n-1))
}

// content is what snapshots(n) reads as.
func content(n int) []byte {
	b := bytes.Repeat([]byte{0xff}, (maxChain+2)*cluster)
	for i := 1; i < n; i++ {
		copy(b[i*cluster:], bytes.Repeat([]byte{byte(i)}, cluster))
	}
	return b
}

// readsAs closes the set.
func readsAs(t *testing.T, set *Set, err error, want []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	got := make([]byte, set.Disks[0].Size)
	if _, err := set.Disks[0].ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("reads otherwise: %d bytes, want %d, %v", len(got), len(want), err)
	}
}

// Chains of snapshots read as their machine reads them, and as copies of any image
// below the first.
func TestChains(t *testing.T) {
	for _, n := range []int{2, 3, maxChain} {
		dir := t.TempDir()
		top := snapshots(t, dir, n)
		c, at, err := Below{Dirs: []string{dir}}.Chain(top)
		if err != nil || len(c) != n || at != 0 {
			t.Fatalf("%d images: chain %v, template %d, %v", n, c, at, err)
		}
		set, err := OpenChains(t.Context(), []Chain{c})
		readsAs(t, set, err, content(n))
		for _, template := range []int{0, (n - 1) / 2, n - 2} {
			c, at, err := Below{Template: filepath.Join(dir, fmt.Sprint(template))}.Chain(top)
			if err != nil || len(c) != n || at != n-1-template {
				t.Fatalf("%d images over %d: chain %v, template %d, %v", n, template, c, at, err)
			}
			set, err := OpenCopy(t.Context(), c, at)
			if err != nil {
				t.Fatal(err)
			}
			want := []filewatch.Extent{{Physical: int64(template+1) * cluster, Length: int64(n-1-template) * cluster}}
			if d := cmp.Diff(map[int][]filewatch.Extent{0: want}, set.Changed); d != "" {
				t.Errorf("%d images over %d: changed (-want +got):\n%s", n, template, d)
			}
			readsAs(t, set, err, content(n))
		}
		if n < maxChain {
			continue
		}
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", top, "-F", "qcow2", top+"+1")
		if _, _, err := (Below{Dirs: []string{dir}}).Chain(top + "+1"); !errors.Is(err, ErrChain) {
			t.Errorf("one more than %d images: %v", n, err)
		}
	}
}

// What lies behind the end of an image in the middle reads as zeros, and is what the
// copy has of its own, whatever its template has there.
func TestChainWithAShortImage(t *testing.T) {
	dir := t.TempDir()
	base, short, top := dir+"/base", dir+"/short", dir+"/top"
	if err := os.WriteFile(base, bytes.Repeat([]byte{0xff}, 4*cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", short, fmt.Sprint(2*cluster))
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", short, "-F", "qcow2", top, fmt.Sprint(4*cluster))
	c, at, err := Below{Template: base}.Chain(top)
	if err != nil {
		t.Fatal(err)
	}
	set, err := OpenCopy(t.Context(), c, at)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[int][]filewatch.Extent{0: {{Physical: 2 * cluster, Length: 2 * cluster}}}, set.Changed); d != "" {
		t.Errorf("changed (-want +got):\n%s", d)
	}
	readsAs(t, set, err, append(bytes.Repeat([]byte{0xff}, 2*cluster), make([]byte, 2*cluster)...))
}

// setBelow writes into an image's header what lies below it, as a guest may.
func setBelow(t *testing.T, path, name, format string) {
	t.Helper()
	head := make([]byte, 2048)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	at := int(binary.BigEndian.Uint32(head[100:]))
	clear(head[at:])
	if format != "" {
		binary.BigEndian.PutUint32(head[at:], backingFormatExt)
		binary.BigEndian.PutUint32(head[at+4:], uint32(len(format)))
		copy(head[at+8:], format)
	}
	binary.BigEndian.PutUint64(head[8:], 1024)
	binary.BigEndian.PutUint32(head[16:], uint32(len(name)))
	copy(head[1024:], name)
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
}

// Names in images lead to no device, no network, no other directory, round in no
// circle, and no raw disk is taken for an image because its guest wrote one's header
// to it. The benign twins follow.
func TestChainNames(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{dir + "/base": "base", elsewhere + "/secret": "secret", dir + "/under/base": "base"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(content), cluster), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	top, other, external := dir+"/top", dir+"/other", dir+"/external"
	for _, path := range []string{top, other} {
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "256k")
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+dir+"/data", external, "256k")
	setBelow(t, other, "top", "qcow2")
	if err := errors.Join(syscall.Mkfifo(dir+"/fifo", 0o600), os.Symlink(elsewhere+"/secret", dir+"/out"),
		os.Symlink("base", dir+"/in"), os.Symlink(dir, elsewhere+"/back")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, format string
		want         error
		says         string
	}{
		{`json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}`, "raw", ErrChain, `"json:" is no file`},
		{"nbd://localhost/x", "raw", ErrNotSupported, `"nbd:" is no file`},
		{"nbd:unix:/run/x.sock", "raw", ErrNotSupported, `"nbd:" is no file`},
		{"ssh://root@host/etc/shadow", "raw", ErrNotSupported, `"ssh:" is no file`},
		{"file:base", "raw", ErrNotSupported, `"file:" is no file`},
		{"fat:rw:/etc", "raw", ErrNotSupported, `"fat:" is no file`},
		{"base\x00", "raw", ErrNotSupported, "zero byte"},
		{elsewhere + "/secret", "raw", ErrChain, "in none of"},
		{"../" + filepath.Base(elsewhere) + "/secret", "raw", ErrChain, "in none of"},
		{"out", "raw", ErrChain, "in none of"},
		{"/dev/zero", "raw", ErrChain, "in none of"},
		{"fifo", "raw", ErrChain, "not a file"},
		{"under", "raw", ErrChain, "not a file"},
		{"nowhere", "raw", fs.ErrNotExist, "nowhere"},
		{"top", "qcow2", ErrChain, "below itself"},
		{"other", "qcow2", ErrChain, `"` + dir + `/top" is below itself`},
		{"base", "", ErrChain, "in which format"},
		{"base", "qcow2", ErrChain, "which it is not"},
		{"base", "nbd", ErrChain, "which it is not"},
		{"base", strings.Repeat("q", 16), filewatch.ErrCorrupt, "format name"},
		{"external", "qcow2", ErrRefersElsewhere, "external"},
	} {
		setBelow(t, top, c.name, c.format)
		if _, _, err := (Below{Dirs: []string{dir}}).Chain(top); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q, %q: %v", c.name, c.format, err)
		}
	}
	for _, name := range []string{"base", "./base", "in", dir + "/base", "under/base", "under/../base", elsewhere + "/back/base", "other"} {
		format := "raw"
		want := bytes.Repeat([]byte("base"), cluster)
		if name == "other" { // raw, as it says: not what its own header says
			b, err := os.ReadFile(other)
			if err != nil {
				t.Fatal(err)
			}
			want = append(b, make([]byte, len(want)-len(b))...)
		}
		setBelow(t, top, name, format)
		c, _, err := Below{Dirs: []string{dir}}.Chain(top)
		if err != nil || len(c) != 2 {
			t.Errorf("%q: %v, %v", name, c, err)
			continue
		}
		set, err := OpenChains(t.Context(), []Chain{c})
		readsAs(t, set, err, want)
	}
}

// With a template the names must lead to it, as they are or, where they lead
// nowhere, by their last part.
func TestChainToATemplate(t *testing.T) {
	dir := t.TempDir()
	top := snapshots(t, dir, 4)
	whole := dir + "/whole"
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", whole, "256k")
	for _, c := range []struct {
		what, path, template string
		below                string
		at                   int
	}{
		{"its base", top, dir + "/0", "", 3},
		{"one in between", top, dir + "/2", "", 1},
		{"one that was moved", top, dir + "/2", "/nowhere/2", 1},
		{"one of another name", top, dir + "/2", "/nowhere/3", 0},
		{"one that it does not lie over", top, whole, "2", 0},
		{"itself", top, top, "2", 0},
		{"no overlay", whole, dir + "/0", "", 0},
	} {
		if c.below != "" {
			setBelow(t, c.path, c.below, "qcow2")
		}
		chain, at, err := Below{Template: c.template}.Chain(c.path)
		if at != c.at || (err == nil) != (c.at > 0) || err == nil && (len(chain) != 4 || chain[at].Path != c.template) || err != nil && !errors.Is(err, ErrChain) {
			t.Errorf("%s: %v at %d, %v", c.what, chain, at, err)
		}
	}
	if _, _, err := (Below{Template: dir + "/0"}).Chain(dir + "/0"); !errors.Is(err, ErrNotSupported) {
		t.Errorf("a raw image: %v", err)
	}
}

// A raw disk that its guest made to look like an image, and goes on using, is no
// image: another disk would be read than the machine's. TestImageFormatsReadAlike
// has images of disks with an MBR.
func TestDisksThatLookLikeImages(t *testing.T) {
	path := t.TempDir() + "/disk"
	for _, place := range []int{510, 512, 1080, 4096} {
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, 1<<20)...)
		copy(b[place:], map[int]string{510: "\x55\xaa", 512: "EFI PART", 1080: "\x53\xef", 4096: "EFI PART"}[place])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if set, err := OpenImages(t.Context(), []string{path}); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("at %d: %v", place, err)
			if err == nil {
				set.Close()
			}
		}
	}
}

// FuzzQcow2 reads headers: what an image refers to, or damage.
func FuzzQcow2(f *testing.F) {
	for version := range uint32(4) {
		b := make([]byte, 1<<10)
		copy(b, "QFI\xfb")
		binary.BigEndian.PutUint32(b[4:], version)
		binary.BigEndian.PutUint64(b[8:], 512)
		binary.BigEndian.PutUint32(b[16:], 8)
		binary.BigEndian.PutUint32(b[100:], 112)
		at := 112
		if version == 2 {
			at = 72
		}
		binary.BigEndian.PutUint32(b[at:], backingFormatExt)
		binary.BigEndian.PutUint32(b[at+4:], 3)
		copy(b[at+8:], "raw")
		copy(b[512:], "base.img")
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseQcow2(b)
		switch {
		case (h == nil) == (err == nil):
			t.Fatalf("%v, %v", h, err)
		case err != nil:
			if !errors.Is(err, filewatch.ErrCorrupt) {
				t.Fatal(err)
			}
		case len(h.below) > maxBackingName || len(h.format) > maxFormatName || h.below == "" && h.format != "":
			t.Fatalf("%+v", h)
		case h.below != "" && !bytes.Contains(b, []byte(h.below)):
			t.Fatalf("%+v is not in the header", h)
		}
	})
}
