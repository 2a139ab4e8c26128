package volumetest

import (
	"io"
	"os"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// pictureSize is that of each picture of a series, as make-series.sh makes them.
const pictureSize = 48 << 20

// Pictures calls fn for each of a series of copies of one image, which a kernel wrote
// to in between. What it is given is its to keep.
func Pictures(tb testing.TB, name string, fn func(round int, image []byte)) {
	tb.Helper()
	in, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	for round := 0; ; round++ {
		image := make([]byte, pictureSize)
		if _, err := io.ReadFull(z, image); err == io.EOF && round > 1 {
			return
		} else if err != nil {
			tb.Fatalf("%s: picture %d: %v", name, round, err)
		}
		fn(round, image)
	}
}
