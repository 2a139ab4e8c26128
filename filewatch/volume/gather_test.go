package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// someReader is a volume of which only bytes can be read, but for a few.
type someReader struct {
	Follower
	disk   *bytes.Reader
	broken int64

	mu   sync.Mutex
	many int
}

func (r *someReader) ReadAt(b []byte, off int64) (int, error) {
	if off <= r.broken && r.broken < off+int64(len(b)) {
		return 0, errBroken
	}
	return r.disk.ReadAt(b, off)
}

func (r *someReader) ReadMany(bufs [][]byte, offs []int64) error {
	r.mu.Lock()
	r.many++
	r.mu.Unlock()
	return span.ReadMany(io.ReaderAt(struct{ io.ReaderAt }{r}), bufs, offs)
}

var errBroken = errors.New("broken")

// Contents that are read many at a time are those that reading each gives: small and
// larger than what is read at once, in pieces, of which some share theirs, with holes,
// empty, and one that cannot be read, which spoils no other.
func TestScatteredContents(t *testing.T) {
	const size = 32 << 20
	random, content := rand.New(rand.NewPCG(1, 3)), make([]byte, size)
	rand.NewChaCha8([32]byte{9}).Read(content)
	r := &someReader{disk: bytes.NewReader(content), broken: -1}
	var objects []Located
	want := map[uint64][]byte{}
	for inode := uint64(1); inode <= 700; inode++ {
		o := &filewatch.Object{Inode: inode, Type: filewatch.TypeFile}
		var c filewatch.Content
		var all []byte
		for range random.IntN(4) {
			n := int64(1 + random.IntN(9000))
			if random.IntN(100) == 0 {
				n = windowSize + random.Int64N(windowSize)
			}
			if random.IntN(8) == 0 {
				c.Extents = append(c.Extents, filewatch.Extent{Logical: int64(len(all)), Physical: -1, Length: n})
				all = append(all, make([]byte, n)...)
				continue
			}
			at := random.Int64N(size - n)
			if random.IntN(5) == 0 && len(objects) > 0 && len(objects[0].Content.Extents) > 0 {
				at = max(0, objects[0].Content.Extents[0].Physical)
			}
			c.Extents = append(c.Extents, filewatch.Extent{Logical: int64(len(all)), Physical: at, Length: n})
			all = append(all, content[at:at+n]...)
		}
		if o.Size = int64(len(all)); len(all) > 1 && random.IntN(2) == 0 {
			o.Size-- // the last block is not full
		}
		want[inode] = all[:o.Size]
		objects = append(objects, Located{Object: o, Content: c})
	}
	for _, last := range objects[500].Content.Extents {
		r.broken = last.Physical + last.Length/2
	}
	failed, seen := 0, 0
	var mu sync.Mutex
	visit := func(o *filewatch.Object, _ []string, c *Content, damage error) error {
		var got bytes.Buffer
		_, err := c.WriteTo(&got)
		mu.Lock()
		defer mu.Unlock()
		seen++
		if errors.Is(err, errBroken) {
			failed++
			return nil
		}
		if err != nil || damage != nil || !bytes.Equal(got.Bytes(), want[o.Inode]) {
			return fmt.Errorf("object %d: %d of %d bytes, %v, %v", o.Inode, got.Len(), o.Size, err, damage)
		}
		return nil
	}
	if err := (&Volume{reader: r}).ScanSome(t.Context(), &ScanOptions{Workers: 3, Batch: 64, Scattered: true}, objects, visit); err != nil {
		t.Fatal(err)
	}
	broken := 0
	for _, l := range objects {
		for _, e := range l.Content.Extents {
			if e.Physical >= 0 && e.Physical <= r.broken && r.broken < e.Physical+min(e.Length, l.Object.Size-e.Logical) {
				broken++
				break
			}
		}
	}
	if seen != len(objects) || failed != broken || broken == 0 || r.many < 5 {
		t.Errorf("%d of %d seen, %d failed, want %d; %d times many at once", seen, len(objects), failed, broken, r.many)
	}
}
