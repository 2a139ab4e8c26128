package baseline

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxUnpackWindow bounds the memory of one decompression: how far back what it reads
// may refer. zstd has 8 MiB but with --ultra and --long, xz -9 has 64 MiB.
const maxUnpackWindow = 64 << 20

// errPacked says that a file is not packed as its name says, or needs more than is
// given to it.
var errPacked = errors.New("not unpacked")

// errWindow says that a file refers further back than memory is given for.
var errWindow = errors.New("needs more memory than is given to it")

// unpack reads a packed log, of which no more than most bytes are asked for. The
// content is a guest's.
func unpack(packed string, in io.Reader, most int64) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(in, 64<<10)
	switch packed {
	case ".gz":
		return gzip.NewReader(buffered)
	case ".bz2":
		return io.NopCloser(bzip2.NewReader(buffered)), nil
	case ".xz":
		return newXZ(buffered, most)
	case ".zst":
		window := min(max(most, 8<<20), maxUnpackWindow)
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("%q: %w", packed, errPacked)
}
