package dump

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Flags of pages, and status of the header (makedumpfile, diskdump_mod.h).
const (
	packedZlib     = 0x1
	packedLZO      = 0x2
	packedSnappy   = 0x4
	dumpIncomplete = 0x8
	packedZstd     = 0x20
)

// maxPacked bounds a compressed page in bytes: pages that do not get smaller
// are stored as they are.
const maxPacked = 2 * mem.PageSize

// packed is where a page lies in the file.
type packed struct {
	offset uint64
	size   uint32 // bytes in the file
	flags  uint32
}

// unpack reads and decompresses a page.
func (d packed) unpack(page *[mem.PageSize]byte, src *source) error {
	if d.size == 0 || d.size > maxPacked {
		return fmt.Errorf("%w: page of %d bytes", ErrFormat, d.size)
	}
	raw := make([]byte, d.size)
	if err := src.read(raw, d.offset); err != nil {
		return err
	}
	var out []byte
	var err error
	switch d.flags {
	case 0:
		out = raw
	case packedZlib:
		out, err = inflate(raw)
	case packedSnappy:
		if n, lenErr := snappy.DecodedLen(raw); lenErr != nil || n != mem.PageSize {
			return fmt.Errorf("%w: snappy page of %d bytes (%v)", ErrFormat, n, lenErr)
		}
		out, err = snappy.Decode(nil, raw)
	case packedZstd:
		var dec *zstd.Decoder
		if dec, err = zstdDecoder(); err == nil {
			out, err = dec.DecodeAll(raw, nil)
		}
	case packedLZO:
		out, err = unLZO(raw, mem.PageSize)
	default:
		return fmt.Errorf("%w: page with flags %#x", ErrNotSupported, d.flags)
	}
	if err != nil {
		return fmt.Errorf("%w: decompress: %w", ErrFormat, err)
	}
	if len(out) != mem.PageSize {
		return fmt.Errorf("%w: page has %d bytes decompressed", ErrFormat, len(out))
	}
	copy(page[:], out)
	return nil
}

// inflaters are reused: making one costs more than inflating a page.
var inflaters sync.Pool

func inflate(raw []byte) ([]byte, error) {
	src := bytes.NewReader(raw)
	r, ok := inflaters.Get().(io.ReadCloser)
	var err error
	if ok {
		err = r.(zlib.Resetter).Reset(src, nil)
	} else {
		r, err = zlib.NewReader(src)
	}
	if err != nil {
		return nil, err
	}
	defer inflaters.Put(r)
	// One byte more than a page tells too large from right.
	return io.ReadAll(io.LimitReader(r, mem.PageSize+1))
}

// zstdDecoder is one decoder for all, without goroutines of its own.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
})
