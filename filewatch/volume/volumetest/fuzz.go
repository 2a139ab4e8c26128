package volumetest

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// mostSeeds is how many pieces of an image's metadata a fuzzer starts from.
const mostSeeds = 48

// Fuzz feeds whole images: the fuzzer changes one region of one of them, which
// must not have checksums or its changes get no further than those. Whatever
// comes out is a volume or a reason, and never both.
func Fuzz(f *testing.F, images ...[]byte) {
	f.Helper()
	for i, img := range images {
		s, err := readAll(bytes.NewReader(img), int64(len(img)))
		if err != nil {
			f.Fatal(err)
		}
		p := metadata(f, bytes.NewReader(img), int64(len(img)), s)
		for n := 0; n < len(p.runs); n += max(1, len(p.runs)/mostSeeds) {
			at := p.runs[n].Physical
			f.Add(uint8(i), uint32(at), img[at:at+p.runs[n].Length])
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, off uint32, b []byte) {
		img := images[int(which)%len(images)]
		p := &Patched{ReaderAt: bytes.NewReader(img), Patches: map[int64]byte{}}
		for i, c := range b {
			if at := int64(off) + int64(i); at < int64(len(img)) && img[at] != c {
				p.Patches[at] = c
			}
		}
		d, err := volume.Open(p, int64(len(img)))
		if err != nil {
			t.Fatal(err) // reading memory does not fail
		}
		for _, v := range d.Volumes {
			s, err := Read(t.Context(), v)
			if (v.NotMeasured != "") != (err != nil) {
				t.Fatalf("volume %q: error %v, state %v", v.NotMeasured, err, s)
			}
		}
	})
}
