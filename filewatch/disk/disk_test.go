package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func TestImageFormatsReadAlike(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk,raw")
	content := bytes.Repeat([]byte("plumbline"), 100_000)
	content = content[:len(content)&^511]
	copy(content[510:], "\x55\xaaEFI PART") // a disk with partitions
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{raw}
	for _, format := range []string{"qcow2", "vmdk", "vdi", "vhdx"} {
		path := filepath.Join(dir, "disk."+format)
		run(t, "qemu-img", "convert", "-f", "raw", "-O", format, raw, path)
		paths = append(paths, path)
	}
	set, err := OpenImages(context.Background(), paths)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for _, d := range set.Disks {
		got := make([]byte, len(content))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) || d.Size < int64(len(content)) {
			t.Errorf("%s: %d bytes, %v", d.Name, d.Size, err)
		}
	}
}

func TestHolesAreToldApart(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	const data, size = 8 << 20, 64 << 20
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("plumbline"), 10_000), data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(dir, "disk.qcow2"))
	set, err := OpenImages(context.Background(), []string{raw, filepath.Join(dir, "disk.qcow2")})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for _, d := range set.Disks {
		if next, err := d.NextData(0); err != nil || next != data {
			t.Errorf("%s: data from %d on, %v; want %d", d.Name, next, err, data)
		}
		if next, err := d.NextData(data + 1<<20); err != io.EOF {
			t.Errorf("%s: data from %d on, %v; want none", d.Name, next, err)
		}
	}
	if next, err := (&Disk{ReaderAt: bytes.NewReader(nil)}).NextData(5); next != 5 || err != nil {
		t.Errorf("a disk that tells no holes: %d, %v", next, err)
	}
}

// An image must not make us read another file of this host: a guest that owns
// its raw disk can write any image header to it. The benign twins are the
// images of TestImageFormatsReadAlike.
func TestImagesThatReferToOtherFiles(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("secret!!"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", dir+"/backing.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+secret+",data_file_raw=on", dir+"/data.qcow2", "512k")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("secret!!"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	descriptor := "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1024 FLAT \"secret\" 0\n"
	if err := os.WriteFile(dir+"/flat.vmdk", []byte(descriptor), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backing.qcow2", "data.qcow2", "flat.vmdk"} {
		set, err := OpenImages(context.Background(), []string{filepath.Join(dir, name)})
		if err != nil {
			continue // refused: as good
		}
		got := make([]byte, 4096)
		if _, err := set.Disks[0].ReadAt(got, 0); err == nil && strings.Contains(string(got), "secret") {
			t.Errorf("%s: the other file was read", name)
		}
		set.Close()
	}
}

// An overlay without what is below it reads as zeros where it holds nothing:
// files would seem to be gone. [Below] is how to read one.
func TestOverlaysAreRefused(t *testing.T) {
	dir := t.TempDir()
	below, overlay, upper := dir+"/below.qcow2", dir+"/overlay.qcow2", dir+"/upper.qcow2"
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", below, "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", overlay)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", overlay, "-F", "qcow2", upper)
	ctx := context.Background()
	for name, open := range map[string]func() (*Set, error){
		"alone":           func() (*Set, error) { return OpenImages(ctx, []string{overlay}) },
		"over another":    func() (*Set, error) { return OpenImages(ctx, []string{upper}) },
		"beside its base": func() (*Set, error) { return OpenImages(ctx, []string{below, overlay}) },
	} {
		if set, err := open(); !errors.Is(err, ErrOverlay) {
			t.Errorf("%s: got %v, want ErrOverlay", name, err)
			if err == nil {
				set.Close()
			}
		}
	}
	var chains []Chain
	for _, path := range []string{below, overlay} {
		c, _, err := Below{Dirs: []string{dir}}.Chain(path)
		if err != nil {
			t.Fatal(err)
		}
		chains = append(chains, c)
	}
	if set, err := OpenChains(ctx, chains); !errors.Is(err, ErrTwice) {
		t.Errorf("over its base, beside it: got %v, want ErrTwice", err)
		if err == nil {
			set.Close()
		}
	}
}

// One disk under two names would have all its files twice.
func TestOneDiskTwice(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.img", "b.img"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.img", dir+"/link.img"); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"a.img", "a.img"}, {"a.img", "link.img"}, {"link.img", "./a.img"}} {
		if set, err := OpenImages(context.Background(), []string{dir + "/" + pair[0], dir + "/" + pair[1]}); !errors.Is(err, ErrTwice) {
			t.Errorf("%v: got %v, want ErrTwice", pair, err)
			if err == nil {
				set.Close()
			}
		}
	}
	set, err := OpenImages(context.Background(), []string{dir + "/a.img", dir + "/b.img"})
	if err != nil {
		t.Fatalf("two disks alike: %v", err)
	}
	set.Close()
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, dir + "/none"} {
		if s, err := OpenImages(context.Background(), []string{path}); err == nil {
			s.Close()
			t.Errorf("%s was opened", path)
		}
	}
	bad := dir + "/bad.qcow2"
	if err := os.WriteFile(bad, []byte("QFI\xfb\x00\x00\x00\x03 and nothing more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenImages(context.Background(), []string{bad}); err == nil {
		s.Close()
		t.Error("a damaged qcow2 was opened")
	}
	if s, err := OpenVM(context.Background(), dir+"/none.sock"); err == nil {
		s.Close()
		t.Error("a machine that is not there was opened")
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Where data begins is the same whatever was asked before.
func TestHolesInAnyOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat([]byte("plumbline"), 1<<20/9)
	for _, at := range []int64{8 << 20, 24 << 20} {
		if _, err := f.WriteAt(piece, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	set, err := OpenImages(t.Context(), []string{path})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	const none = -1
	next := map[int64]int64{0: 8 << 20, 8 << 20: 8 << 20, 8<<20 + 7: 8<<20 + 7, 9<<20 - 4096: 9<<20 - 4096, 9 << 20: 24 << 20,
		23 << 20: 24 << 20, 24<<20 + 4096: 24<<20 + 4096, 25 << 20: none, 63 << 20: none}
	for range 20 {
		for at, want := range next { // in another order each time
			got, err := set.Disks[0].NextData(at)
			if err == io.EOF {
				got, err = none, nil
			}
			if got != want || err != nil {
				t.Fatalf("data from %d on is at %d, %v; want %d", at, got, err, want)
			}
		}
	}
}
