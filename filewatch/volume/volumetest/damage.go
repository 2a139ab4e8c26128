package volumetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"runtime/metrics"
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
func Damage(t *testing.T, image io.ReaderAt, size int64, variants int, covered Coverage) {
	t.Helper()
	clean, err := readAll(image, size)
	if err != nil || len(clean.Damage) > 0 {
		t.Fatalf("clean image: %v %v", err, clean.Damage)
	}
	where := metadata(t, image, size, clean)
	if covered == Resealed {
		where.crc = crc32.MakeTable(crc32.Castagnoli)
	}
	reported, differ := 0, 0
	where.each(t, variants, func(p *Patched) error {
		got, err := readAll(p, size)
		switch {
		case err != nil:
			return err
		case len(got.Damage) > 0:
			reported++
		case covered == NoChecksums:
		default:
			if d := diff(clean, got); d != "" {
				if differ++; covered == Checksummed {
					return fmt.Errorf("reads differently and reports no damage (-clean +got):\n%s", d)
				}
			}
		}
		return nil
	})
	if covered == Resealed && variants >= 100 && differ == 0 {
		t.Error("no variant reads differently without damage: the checksums were not kept right")
	}
	t.Logf("%d variants, %d reported damage", variants, reported)
}

// DamageDisk is Damage for what is not one volume: read is given each variant,
// whose checksums of the polynomial, one of those of [crc32], stay right.
func DamageDisk(t *testing.T, image io.ReaderAt, size int64, variants int, polynomial uint32, read func(io.ReaderAt) error) {
	t.Helper()
	if err := read(image); err != nil {
		t.Fatalf("clean image: %v", err)
	}
	where := metadata(t, image, size, &State{})
	where.crc = crc32.MakeTable(polynomial)
	where.each(t, variants, func(p *Patched) error { return read(p) })
}

// each gives variants to read, which must end in time.
func (p *places) each(t *testing.T, variants int, read func(*Patched) error) {
	t.Helper()
	seed := Seed()
	rnd := rand.New(rand.NewPCG(seed, 1))
	old := debug.SetMemoryLimit(512 << 20)
	defer debug.SetMemoryLimit(old)
	for i := range variants {
		to := &Patched{ReaderAt: p.image, Patches: map[int64]byte{}}
		for range 1 + rnd.IntN(4) {
			p.change(rnd, to)
		}
		if err := within(10*time.Minute, func() error { return read(to) }); err != nil {
			t.Fatalf("variant %d of seed %d: %v: %v", i, seed, to.Patches, err)
		}
		if peak := memory(); peak > 1<<30 {
			t.Fatalf("variant %d of seed %d: %v: %d MiB in use", i, seed, to.Patches, peak>>20)
		}
	}
}

// memory is what the heap has taken.
func memory() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Coverage says what a family's checksums cover.
type Coverage int

const (
	// NoChecksums families cannot know that most metadata was changed.
	NoChecksums Coverage = iota
	// Checksummed families have a checksum over all metadata.
	Checksummed
	// Resealed variants keep every CRC-32C right, so that the damage gets past
	// the checksums into what they protect.
	Resealed
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
	err = v.Scan(ctx, &volume.ScanOptions{Workers: 1}, func(o *filewatch.Object, _ []string, c *volume.Content, damage error) error {
		if c != nil && damage == nil && o.Size < 64<<20 {
			if n, err := io.Copy(io.Discard, c); err == nil && n != o.Size {
				return fmt.Errorf("content of %d ends after %d of %d bytes without an error", o.Inode, n, o.Size)
			}
		}
		return nil
	})
	return s, err
}

func within(limit time.Duration, fn func() error) (err error) {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("still reading after %v", limit)
	}
}

// places are the parts of an image that hold metadata.
type places struct {
	image io.ReaderAt
	crc   *crc32.Table // of the checksums to keep right, nil for none
	runs  []filewatch.Extent
	total int64
}

// metadata is every block of the image that is not zero and holds no file
// content.
func metadata(t testing.TB, image io.ReaderAt, size int64, s *State) *places {
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
	kind, width := rnd.IntN(4), int64(1)
	if kind > 1 {
		width = 2 << rnd.IntN(2)
		off &^= width - 1
	}
	was, now := make([]byte, width+4), make([]byte, width+4)
	if n, err := to.ReadAt(was, off); n < len(was) || err != nil {
		return
	}
	copy(now, was)
	switch kind {
	case 0:
		now[0] ^= 1 << rnd.IntN(8)
	case 1:
		now[0] = byte(rnd.IntN(256))
	default:
		fill := []byte{0, 0xFF, 0x7F, 0x80, 1}[rnd.IntN(5)]
		for k := range width {
			now[k] = fill
		}
	}
	if p.crc != nil {
		p.reseal(was, now)
	}
	for k := range now {
		if now[k] != was[k] {
			to.Patches[off+int64(k)] = now[k]
		}
	}
}

// reseal changes the last four bytes of now so that a CRC over whatever both lie
// in stays the same. CRCs are linear: that of the difference of two messages is
// the difference of their CRCs, and it is zero when the state after the
// difference's first bytes follows them.
func (p *places) reseal(was, now []byte) {
	state := uint32(0)
	end := len(now) - 4
	for k := range end {
		state = p.crc[byte(state)^was[k]^now[k]] ^ state>>8
	}
	binary.LittleEndian.PutUint32(now[end:], binary.LittleEndian.Uint32(was[end:])^state)
}

// Variants is how many damaged images of a family to try, in so many flavours:
// few in "make check", 500 with the build tag lab, or the number in
// PLUMBLINE_DAMAGE for long runs.
func Variants(flavours int) int {
	n := defaultVariants
	if v, err := strconv.Atoi(os.Getenv("PLUMBLINE_DAMAGE")); err == nil {
		n = v
	}
	return (n + flavours - 1) / flavours
}

// Seed chooses the variants: always the same, but for the number in
// PLUMBLINE_DAMAGE_SEED.
func Seed() uint64 {
	if v, err := strconv.ParseUint(os.Getenv("PLUMBLINE_DAMAGE_SEED"), 10, 64); err == nil {
		return v
	}
	return 1
}
