package span_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// manyDisk counts how often many pieces were read at once.
type manyDisk struct {
	*bytes.Reader
	times int
}

func (m *manyDisk) ReadMany(bufs [][]byte, offs []int64) error {
	m.times++
	return span.ReadMany(m.Reader, bufs, offs)
}

// Reading many pieces at once gives what reading each does, over pieces of two disks
// of which one reads many at once, with ends of the device and what is missing.
func TestReadMany(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	content := make([]byte, 8192)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	quick, plain := &manyDisk{Reader: bytes.NewReader(content)}, bytes.NewReader(content[4096:])
	d, err := span.New([]span.Piece{
		{Start: 0, From: 4096, Length: 1000, Below: quick},
		{Start: 1000, From: 100, Length: 2000, Below: plain},
		{Start: 3000, From: 10, Length: 3000, Below: quick},
		{Start: 6000, Length: 50, Missing: "it is not here"},
	})
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 2000 {
		var bufs [][]byte
		var offs []int64
		ok := true
		for range 1 + random.IntN(6) {
			off := random.Int64N(6060) - 5
			b := make([]byte, random.IntN(400))
			want := make([]byte, len(b))
			n, _ := d.ReadAt(want, off)
			ok = ok && n == len(b)
			bufs, offs = append(bufs, b), append(offs, off)
		}
		err := span.ReadMany(d, bufs, offs)
		if (err == nil) != ok {
			t.Fatalf("at %d: %v; each by itself: %v", offs, err, ok)
		}
		if !ok {
			failed++
			continue
		}
		for i, b := range bufs {
			want := make([]byte, len(b))
			d.ReadAt(want, offs[i])
			if !bytes.Equal(b, want) {
				t.Fatalf("%d bytes at %d are not those there", len(b), offs[i])
			}
		}
	}
	if failed == 0 || quick.times == 0 {
		t.Errorf("%d failures, %d times many at once", failed, quick.times)
	}
}
