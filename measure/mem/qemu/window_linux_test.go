package qemu

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ramFile makes a memfd of this many pages.
func ramFile(t *testing.T, pages int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("ram", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "ram")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(pages * mem.PageSize); err != nil {
		t.Fatal(err)
	}
	return f
}

func blocksOf(t *testing.T, f *os.File) int64 {
	t.Helper()
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		t.Fatal(err)
	}
	return info.Blocks
}

// TestWindowReadsWhatTheFileHolds reads pages on both sides of words' borders,
// holes between them, and a page that is written after it was looked at.
func TestWindowReadsWhatTheFileHolds(t *testing.T) {
	const pages, skipped = 3*64 + 5, 2
	f := ramFile(t, pages+skipped)
	page := func(i int64) []byte { return bytes.Repeat([]byte{byte(i), 0xa5}, mem.PageSize/2) }
	write := func(i int64) {
		if _, err := f.WriteAt(page(i), (i+skipped)*mem.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	held := map[int64]bool{0: true, 1: true, 64 - 1: true, 64: true, 2*64 + 7: true, pages - 1: true}
	for i := range held {
		write(i)
	}
	w := openWindow(f, skipped*mem.PageSize, pages*mem.PageSize)
	if w == nil {
		t.Fatal("a memfd is not read through a window")
	}
	defer w.close()
	before := blocksOf(t, f)
	verify := func() {
		for i := range int64(pages) {
			got := make([]byte, mem.PageSize)
			ok, err := w.read(got, uint64(i)*mem.PageSize)
			if err != nil || ok != held[i] || ok && !bytes.Equal(got, page(i)) {
				t.Errorf("page %d: read %v, want %v (%v)", i, ok, held[i], err)
			}
			for _, other := range []byte{0, 1} {
				got = page(i)
				got[mem.PageSize-1] += other
				if same, done, err := w.equal(got, uint64(i)*mem.PageSize); err != nil || done != held[i] || same != (done && other == 0) {
					t.Errorf("page %d: compared %v, equal %v (%v)", i, done, same, err)
				}
			}
			if _, ok, err := w.u64(uint64(i)*mem.PageSize + 8); ok != held[i] || err != nil {
				t.Errorf("word of page %d: read %v, want %v (%v)", i, ok, held[i], err)
			}
		}
	}
	verify()
	if ok, _ := w.read(make([]byte, 2), mem.PageSize*2-1); ok {
		t.Error("a read that ends in a hole was answered")
	}
	if got := make([]byte, 2); true {
		if ok, _ := w.read(got, mem.PageSize*64-1); !ok || got[0] != 0xa5 || got[1] != 64 {
			t.Errorf("across a border: %v, %x", ok, got)
		}
	}
	if after := blocksOf(t, f); after != before {
		t.Errorf("reading grew the file from %d to %d blocks", before, after)
	}
	held[3] = true
	write(3)
	verify()
}

// A file that shrinks under its window is an error of the read.
func TestWindowSurvivesTruncation(t *testing.T) {
	f := ramFile(t, 8)
	if _, err := f.WriteAt(make([]byte, 8*mem.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	w := openWindow(f, 0, 8*mem.PageSize)
	defer w.close()
	if ok, err := w.read(make([]byte, mem.PageSize), 7*mem.PageSize); !ok || err != nil {
		t.Fatalf("read %v (%v)", ok, err)
	}
	if err := f.Truncate(mem.PageSize); err != nil {
		t.Fatal(err)
	}
	if _, err := w.read(make([]byte, mem.PageSize), 7*mem.PageSize); err == nil {
		t.Error("reading past the file's end gave no error")
	}
	if _, _, err := w.u64(7 * mem.PageSize); err == nil {
		t.Error("reading a word past the file's end gave no error")
	}
	if same, _, err := w.equal(make([]byte, mem.PageSize), 7*mem.PageSize); same || err == nil {
		t.Errorf("comparing past the file's end: %v, %v", same, err)
	}
}

// Only tmpfs is mapped.
func TestWindowNeedsTmpfs(t *testing.T) {
	f, err := os.CreateTemp("/var/tmp", "plumbline-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(mem.PageSize); err != nil {
		t.Fatal(err)
	}
	if w := openWindow(f, 0, mem.PageSize); (w != nil) != (fs.Type == unix.TMPFS_MAGIC) {
		t.Errorf("file system of type %#x: window %v", fs.Type, w != nil)
	}
	for _, size := range []uint64{0, 1, mem.PageSize + 1, 2 * mem.PageSize, 1 << 63} {
		if w := openWindow(ramFile(t, 1), 0, size); w != nil {
			t.Errorf("a window of %d bytes was opened on a page", size)
		}
	}
}
