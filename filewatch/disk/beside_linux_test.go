package disk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

// cachedDir is a directory on a file system whose files are in the page cache and can be
// opened past it, as those that images lie on: memory file systems are none of them.
func cachedDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		dir, err := os.MkdirTemp(parent, "plumbline-beside-*")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "probe")
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		cached, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer cached.Close()
		past, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
		if err == nil {
			past.Close()
			if readInMemory(cached, make([]byte, 4096), 0) {
				return dir
			}
		}
	}
	t.Fatal("no directory on a file system with a page cache (preadv2 with RWF_NOWAIT, O_DIRECT)")
	return ""
}

// besideQEMU is a machine with a raw disk of random bytes, of which half a megabyte
// at the end is a hole, and a snapshot of it.
func besideQEMU(t *testing.T) (m *disktest.Machine, near *beside, content []byte) {
	t.Helper()
	content = make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{7}).Read(content[:len(content)-512<<10])
	path := filepath.Join(cachedDir(t), "raw")
	if err := os.WriteFile(path, content[:len(content)-512<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.ReadAt(make([]byte, len(content)), 0); err != nil {
		t.Fatalf("%d bytes: %v", n, err)
	}
	m = disktest.Start(t, "raw:"+path)
	set, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	near, ok := set.Disks[0].ReaderAt.(*beside)
	if !ok {
		t.Fatalf("the disk is read by a %T", set.Disks[0].ReaderAt)
	}
	return m, near, content
}

// readsLike compares many places with what they held.
func readsLike(t *testing.T, near *beside, content []byte, offs []int64) {
	t.Helper()
	bufs := make([][]byte, len(offs))
	for i := range bufs {
		bufs[i] = make([]byte, min(5000, len(content)-int(offs[i])))
	}
	if err := near.ReadMany(bufs, offs); err != nil {
		t.Fatal(err)
	}
	for i, b := range bufs {
		if !bytes.Equal(b, content[offs[i]:][:len(b)]) {
			t.Errorf("%d bytes at %#x are not those of the snapshot", len(b), offs[i])
		}
	}
}

// What the guest writes after the snapshot is not read, though it is in the image.
func TestReadsBesideQEMUAreTheSnapshots(t *testing.T) {
	m, near, content := besideQEMU(t)
	var offs []int64
	for off := int64(0); off < int64(len(content)); off += 100_000 {
		offs = append(offs, off)
	}
	readsLike(t, near, content, offs)
	if n := near.reads.image.Load(); n == 0 || near.reads.copied.Load() > 0 {
		t.Errorf("%d pieces were read from the image, %d of them copied before", n, near.reads.copied.Load())
	}
	m.Write(t, 0, offs[3], bytes.Repeat([]byte{1}, 4096))
	m.Write(t, 0, offs[10]+4999, bytes.Repeat([]byte{2}, 1))
	m.Write(t, 0, offs[70], bytes.Repeat([]byte{3}, 300_000))
	m.Write(t, 0, int64(len(content))-4096, bytes.Repeat([]byte{4}, 4096)) // into the hole
	readsLike(t, near, content, append(offs, int64(len(content))-4096))
	if n := near.reads.copied.Load(); n < 6 {
		t.Errorf("%d pieces were read from QEMU because they were copied", n)
	}
	if err := near.ReadMany([][]byte{make([]byte, 2)}, []int64{near.Size - 1}); err == nil {
		t.Error("reads past the end of the disk")
	}
}

// Reads while the guest writes to the same places are the snapshot's, too.
func TestReadsBesideAWriter(t *testing.T) {
	m, near, content := besideQEMU(t)
	places := rand.New(rand.NewPCG(1, 2))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 60 {
			off := int64(i) * int64(len(content)) / 60 &^ 511
			m.Write(t, 0, off, bytes.Repeat([]byte{byte(i)}, 40_000))
		}
	}()
	defer func() { <-done }()
	for writing := true; writing && !t.Failed(); {
		select {
		case <-done:
			writing = false
		default:
		}
		offs := make([]int64, 100)
		for i := range offs {
			offs[i] = places.Int64N(int64(len(content)))
		}
		readsLike(t, near, content, offs)
	}
	if near.reads.image.Load() == 0 || near.reads.copied.Load() == 0 {
		t.Errorf("%d pieces were read from the image, %d had been copied", near.reads.image.Load(), near.reads.copied.Load())
	}
}

// An image is read beside QEMU only where its bytes are certainly those of the disk,
// and QEMU writes them through the page cache. This process stands in for QEMU.
func TestImagesThatAreReadBesideQEMU(t *testing.T) {
	const size = 64 << 10
	pid := os.Getpid()
	for name, c := range map[string]struct {
		flags int
		block Block
		spoil func(path string) error
		want  bool
	}{
		"plain":         {block: Block{Format: "raw", Size: size}, want: true},
		"another name":  {block: Block{Format: "raw", Size: size}, spoil: func(path string) error { return os.Rename(path, path+".old") }},
		"another file":  {block: Block{Format: "raw", Size: size}, spoil: func(path string) error { return replaced(path, size) }},
		"not the whole": {block: Block{Format: "raw", Size: size - 512}},
		"qcow2":         {block: Block{Format: "qcow2", Size: size}},
		"read-only":     {block: Block{Format: "raw", Size: size, ReadOnly: true}},
		"no cache":      {flags: unix.O_DIRECT, block: Block{Format: "raw", Size: size}},
		"a FIFO":        {block: Block{Format: "raw", Size: size}, spoil: func(path string) error { os.Remove(path); return unix.Mkfifo(path, 0o600) }},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(cachedDir(t), "raw")
			if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR|c.flags, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if c.spoil != nil {
				if err := c.spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			c.block.File = path
			image := imageOf(pid, c.block)
			if (image != nil) != c.want {
				t.Errorf("image %v, want one: %v", image, c.want)
			}
			if image != nil {
				image.Close()
			}
		})
	}
	if imageOf(pid, Block{Format: "raw", Size: size, File: fmt.Sprintf(`json:{"driver": "raw", "file": {"filename": %q}}`, "x")}) != nil {
		t.Error("a disk with more between it and its file is read beside QEMU")
	}
}

// replaced puts another file in the place of one.
func replaced(path string, size int) error {
	if err := os.WriteFile(path+".new", make([]byte, size), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
