package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Patched is an image with some bytes changed.
type Patched struct {
	io.ReaderAt
	Patches map[int64]byte
}

// ReadAt implements [io.ReaderAt].
func (p *Patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	for at, v := range p.Patches {
		if at >= off && at < off+int64(n) {
			b[at-off] = v
		}
	}
	return n, err
}

// Damage reads an image of one volume in the given number of variants, each with
// a few bytes of its metadata changed at random. Whatever was changed, reading
// must end in time, without a panic and in bounded memory. If the family's
// checksums cover all metadata (covered), then a variant that reads differently
// must also report damage: there is no silent gap.
func Damage(t *testing.T, image io.ReaderAt, size int64, variants int, seed uint64, covered Coverage) {
	t.Helper()
	clean, err := readAll(image, size)
	if err != nil || len(clean.Damage) > 0 {
		t.Fatalf("clean image: %v %v", err, clean.Damage)
	}
	where := metadata(t, image, size, clean)
	rnd := rand.New(rand.NewPCG(seed, 1))
	old := debug.SetMemoryLimit(512 << 20)
	defer debug.SetMemoryLimit(old)
	reported := 0
	for i := range variants {
		p := &Patched{ReaderAt: image, Patches: map[int64]byte{}}
		for range 1 + rnd.IntN(4) {
			where.change(rnd, p)
		}
		name := fmt.Sprintf("variant %d of seed %d: %v", i, seed, p.Patches)
		got, err := within(30*time.Second, func() (*State, error) { return readAll(p, size) })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(got.Damage) > 0 {
			reported++
		} else if covered == Checksummed {
			if d := diff(clean, got); d != "" {
				t.Errorf("%s: reads differently and reports no damage (-clean +got):\n%s", name, d)
			}
		}
	}
	t.Logf("%d variants, %d reported damage", variants, reported)
}

// Coverage says what a family's checksums cover.
type Coverage int

const (
	// NoChecksums families cannot know that most metadata was changed.
	NoChecksums Coverage = iota
	// Checksummed families have a checksum over all metadata.
	Checksummed
)

func diff(a, b *State) string {
	if d := cmp.Diff(a.Names, b.Names); d != "" {
		return d
	}
	if d := cmp.Diff(a.Objects, b.Objects); d != "" {
		return d
	}
	return cmp.Diff(a.Contents, b.Contents)
}

// readAll reads everything in every way. An image that cannot be opened is
// damage.
func readAll(image io.ReaderAt, size int64) (*State, error) {
	d, err := volume.Open(image, size)
	if err != nil {
		return &State{Damage: []error{err}}, nil
	}
	if len(d.Volumes) != 1 || d.Volumes[0].NotMeasured != "" {
		return &State{Damage: []error{errors.New("not measured")}}, nil
	}
	v := d.Volumes[0]
	ctx := context.Background()
	s, err := Read(ctx, v)
	if err != nil {
		return s, err
	}
	for inode := range s.Objects {
		v.Object(inode)
		fs.Stat(v.FS(), fmt.Sprint(inode))
	}
	err = v.Scan(ctx, &volume.ScanOptions{Workers: 1}, func(o *filewatch.Object, c *volume.Content, damage error) error {
		if c != nil && damage == nil && o.Size < 64<<20 {
			if n, err := io.Copy(io.Discard, c); err == nil && n != o.Size {
				return fmt.Errorf("content of %d ends after %d of %d bytes without an error", o.Inode, n, o.Size)
			}
		}
		return nil
	})
	return s, err
}

func within(limit time.Duration, fn func() (*State, error)) (s *State, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		s, err = fn()
	}()
	select {
	case <-done:
		return s, err
	case <-time.After(limit):
		return nil, fmt.Errorf("still reading after %v", limit)
	}
}

// places are the parts of an image that hold metadata.
type places struct {
	image io.ReaderAt
	runs  []filewatch.Extent
	total int64
}

// metadata is every block of the image that is not zero and holds no file
// content.
func metadata(t *testing.T, image io.ReaderAt, size int64, s *State) *places {
	t.Helper()
	var data []filewatch.Extent
	for inode, c := range s.Contents {
		if s.Objects[inode].Type != filewatch.TypeDir {
			data = append(data, c.Extents...)
		}
	}
	const block = 512
	isData := map[int64]bool{}
	for _, e := range data {
		for off := int64(0); e.Physical >= 0 && off < e.Length; off += block {
			isData[(e.Physical+off)/block] = true
		}
	}
	p := &places{image: image}
	b := make([]byte, block)
	for at := int64(0); at+block <= size; at += block {
		if isData[at/block] {
			continue
		}
		if _, err := image.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if len(bytesTrimZero(b)) > 0 {
			p.runs = append(p.runs, filewatch.Extent{Logical: p.total, Physical: at, Length: block})
			p.total += block
		}
	}
	return p
}

func bytesTrimZero(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// change damages one place: a bit, a byte, or a field of 2 or 4 bytes that
// becomes extreme.
func (p *places) change(rnd *rand.Rand, to *Patched) {
	at := rnd.Int64N(p.total)
	i := sort.Search(len(p.runs), func(i int) bool { return p.runs[i].Logical+p.runs[i].Length > at })
	off := p.runs[i].Physical + at - p.runs[i].Logical
	var old [1]byte
	if _, err := p.image.ReadAt(old[:], off); err != nil {
		return
	}
	switch rnd.IntN(4) {
	case 0:
		to.Patches[off] = old[0] ^ 1<<rnd.IntN(8)
	case 1:
		to.Patches[off] = byte(rnd.IntN(256))
	default:
		width := int64(2 << rnd.IntN(2))
		fill := []byte{0, 0xFF, 0x7F, 0x80, 1}[rnd.IntN(5)]
		for k := range width {
			to.Patches[off&^(width-1)+k] = fill
		}
	}
}

// Variants is how many damaged images to try: few in "make check", 500 with the
// build tag lab, or the number in PLUMBLINE_DAMAGE for long runs.
func Variants() int {
	if v, err := strconv.Atoi(os.Getenv("PLUMBLINE_DAMAGE")); err == nil {
		return v
	}
	return defaultVariants
}
