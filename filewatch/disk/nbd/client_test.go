package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// serve starts qemu-nbd on an image and returns its socket.
func serve(t *testing.T, image, format string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command("qemu-nbd", "-r", "-f", format, "--persistent", "--shared=4", "-k", socket, image)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not come up")
	return ""
}

// Against a server that no one here wrote: content, concurrency, holes.
func TestAgainstQEMU(t *testing.T) {
	const size = 16<<20 + 512
	image := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 8<<20); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(context.Background(), serve(t, image, "raw"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size != size {
		t.Fatalf("size %d, want %d", c.Size, size)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				off := rand.Int64N(size)
				got := make([]byte, rand.IntN(100_000))
				want := make([]byte, len(got))
				n, err := c.ReadAt(got, off)
				m, wantErr := f.ReadAt(want, off)
				if n != m || !errors.Is(err, wantErr) || !bytes.Equal(got[:n], want[:m]) {
					t.Errorf("read %d bytes at %d: %d, %v; the file gives %d, %v", len(got), off, n, err, m, wantErr)
					return
				}
			}
		})
	}
	wg.Wait()
	manyAgainst(t, c, f, size)
	if off, err := c.NextData(0); off != 8<<20 || err != nil {
		t.Errorf("first data at %d, %v", off, err)
	}
	if off, err := c.NextData(9 << 20); !errors.Is(err, io.EOF) {
		t.Errorf("data after the end at %d, %v", off, err)
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("negative offset was read")
	}
	if _, err := c.Extents("qemu:dirty-bitmap:x", 0, 1); !errors.Is(err, ErrNoContext) {
		t.Errorf("context that was not negotiated: %v", err)
	}
}

// manyAgainst reads many pieces at once, of which some lie over each other and one
// has nothing in it, while others read single ones.
func manyAgainst(t *testing.T, c *Client, f io.ReaderAt, size int64) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				bufs, offs := [][]byte{nil}, []int64{size}
				for range 3*maxMany + rand.IntN(9) {
					bufs = append(bufs, make([]byte, rand.IntN(20_000)))
					offs = append(offs, rand.Int64N(size-20_000))
				}
				if err := c.ReadMany(bufs, offs); err != nil {
					t.Errorf("%d pieces: %v", len(bufs), err)
					return
				}
				for i, b := range bufs {
					want := make([]byte, len(b))
					if _, err := f.ReadAt(want, offs[i]); len(b) > 0 && err != nil || !bytes.Equal(b, want) {
						t.Errorf("piece %d, %d bytes at %d, is not what the file has (%v)", i, len(b), offs[i], err)
						return
					}
				}
				c.ReadAt(make([]byte, 4096), 8<<20)
			}
		})
	}
	wg.Wait()
	for _, off := range []int64{-1, size - 10, size + 1} {
		if err := c.ReadMany([][]byte{make([]byte, 20), make([]byte, 20)}, []int64{0, off}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("20 bytes at %d of %d: %v", off, size, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	image := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := serve(t, image, "raw")
	if c, err := Dial(context.Background(), socket, "none"); err == nil {
		c.Close()
		t.Error("an export that is not there opened")
	}
	if c, err := Dial(context.Background(), socket, "", "qemu:dirty-bitmap:none"); !errors.Is(err, ErrNoContext) {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := Dial(context.Background(), image+".none", ""); err == nil {
		t.Error("connected to nothing")
	}
}

// FuzzServer lets a hostile server say anything.
func FuzzServer(f *testing.F) {
	f.Add(hello())
	f.Add(append(hello(), simple(0)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(said)
			theirs.Close()
		}()
		c, err := NewClient(ours, "x")
		if (c == nil) == (err == nil) {
			t.Fatalf("client %v and error %v", c, err)
		}
		if c == nil {
			ours.Close()
			return
		}
		c.ReadAt(make([]byte, 4096), 0)
		c.ReadMany([][]byte{make([]byte, 512), make([]byte, 100)}, []int64{0, 3900})
		c.NextData(0)
		c.Close()
	})
}
