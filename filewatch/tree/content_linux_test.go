package tree

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// sparseFile is a file of that many bytes with pieces at some places.
func sparseFile(t *testing.T, size int64, pieces map[int64][]byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, b := range pieces {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func statOf(t *testing.T, f *os.File) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// With holes at the beginning, in the middle and at the end, or none, whatever pieces
// it is read in, a file's content is the one that read(2) gives.
func TestContentIsWhatIsRead(t *testing.T) {
	random := rand.NewChaCha8([32]byte{4})
	piece := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	for name, f := range map[string]*os.File{
		"empty":        sparseFile(t, 0, nil),
		"a hole":       sparseFile(t, 1<<20, nil),
		"no hole":      sparseFile(t, 300_000, map[int64][]byte{0: piece(300_000)}),
		"in between":   sparseFile(t, 1<<20, map[int64][]byte{0: piece(10), 500_000: piece(70_000), 1<<20 - 3: piece(3)}),
		"at both ends": sparseFile(t, 1<<20+17, map[int64][]byte{131072: piece(9000)}),
	} {
		want, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1000, 4096, 1 << 20} {
			st := statOf(t, f)
			c := contentOf(f, &st)
			c.sparse = true // whatever it is
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, c, make([]byte, size)); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s in pieces of %d: %d bytes of %d: %v", name, size, got.Len(), len(want), err)
			}
		}
	}
}

// Holes are not asked of the kernel, and one that would never end is refused.
func TestHolesAreNotRead(t *testing.T) {
	f := sparseFile(t, volume.MaxHole+16<<20, map[int64][]byte{4 << 20: []byte("some")})
	st := statOf(t, f)
	c := contentOf(f, &st)
	if !c.sparse {
		t.Fatalf("%d blocks for %d bytes: the file system of %s has no holes, and this test needs them", st.Blocks, st.Size, f.Name())
	}
	buf := make([]byte, 1<<20)
	for c.off < 4<<20 {
		if _, err := c.Read(buf); err != nil || !c.hole {
			t.Fatalf("at %d: hole %v, %v", c.off, c.hole, err)
		}
	}
	if n, err := c.Read(buf); err != nil || c.hole || !bytes.HasPrefix(buf[:n], []byte("some")) {
		t.Fatalf("at %d: %q, hole %v, %v", c.off, buf[:min(n, 8)], c.hole, err)
	}
	for {
		_, err := c.Read(buf)
		if err == nil {
			continue
		}
		if !errors.Is(err, volume.ErrTooSparse) {
			t.Errorf("at %d: %v", c.off, err)
		}
		return
	}
}

// A file that is cut while it is read ends there, and one that grows goes on.
func TestContentChangesMeanwhile(t *testing.T) {
	f := sparseFile(t, 8<<20, map[int64][]byte{4 << 20: []byte("some")})
	st := statOf(t, f)
	c := contentOf(f, &st)
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n > 8<<20 {
		t.Errorf("cut: %d bytes, %v", n, err)
	}
	at := c.off
	if err := f.Truncate(at + 5000); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n != 5000 {
		t.Errorf("grown: %d bytes, %v", n, err)
	}
}
