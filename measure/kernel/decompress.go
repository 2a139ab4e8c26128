package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxKernelFile bounds what a kernel or a module decompresses to, in bytes. Debian's
// largest is 66 MB.
const maxKernelFile = 512 << 20

// maxModule bounds what a module decompresses to, in bytes.
const maxModule = 64 << 20

// lz4Legacy is the frame that "lz4 -l" writes: the magic, then blocks that each
// decompress to 8 MiB, the last to less.
var lz4Legacy = []byte{0x02, 0x21, 0x4c, 0x18}

const lz4LegacyBlock = 8 << 20

// decompress recognizes GZIP, XZ, ZSTD and legacy LZ4 by their magic and
// returns at most limit bytes; more is [ErrTooLarge]. Bytes after the
// compressed stream are ignored.
func decompress(in []byte, limit int) ([]byte, error) {
	switch {
	case bytes.HasPrefix(in, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(in))
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %w", ErrFormat, err)
		}
		r.Multistream(false)
		return readBounded("gzip", r, limit)
	case bytes.HasPrefix(in, xzMagic):
		return unxz(in, limit)
	case bytes.HasPrefix(in, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r, err := zstd.NewReader(bytes.NewReader(in), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", ErrFormat, err)
		}
		defer r.Close()
		return readZstd(r, limit)
	case bytes.HasPrefix(in, lz4Legacy):
		return unlz4(in[4:], limit)
	}
	return nil, fmt.Errorf("%w: unknown compression %x", ErrFormat, in[:min(len(in), 8)])
}

func readBounded(what string, r io.Reader, limit int) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, what, err)
	}
	if len(out) > limit {
		return nil, fmt.Errorf("%w: over %d bytes of %s", ErrTooLarge, limit, what)
	}
	return out, nil
}

// readZstd is readBounded for a decoder that takes the appended size for the
// start of another frame.
func readZstd(r io.Reader, limit int) ([]byte, error) {
	var out bytes.Buffer
	_, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1))
	switch {
	case out.Len() > limit:
		return nil, fmt.Errorf("%w: over %d bytes of zstd", ErrTooLarge, limit)
	case err != nil && out.Len() == 0:
		return nil, fmt.Errorf("%w: zstd: %w", ErrFormat, err)
	}
	return out.Bytes(), nil
}

func unlz4(in []byte, limit int) ([]byte, error) {
	var out []byte
	block := make([]byte, lz4LegacyBlock)
	for len(in) >= 4 {
		size := int(binary.LittleEndian.Uint32(in))
		if bytes.HasPrefix(in, lz4Legacy) { // concatenated frames
			in = in[4:]
			continue
		}
		if size > len(in)-4 { // what follows is the appended size
			break
		}
		n, err := lz4.UncompressBlock(in[4:4+size], block)
		if err != nil {
			return nil, fmt.Errorf("%w: lz4 block: %w", ErrFormat, err)
		}
		if len(out)+n > limit {
			return nil, fmt.Errorf("%w: over %d bytes of lz4", ErrTooLarge, limit)
		}
		out = append(out, block[:n]...)
		in = in[4+size:]
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: empty lz4 stream", ErrFormat)
	}
	return out, nil
}
