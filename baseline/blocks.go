package baseline

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// blockReader gives the encoded records of a baseline one after the other.
type blockReader struct {
	b             *Baseline
	z             *zstd.Decoder
	number        int
	off           int64
	packed, block []byte
	rest          decoder
}

func (b *Baseline) blocks() *blockReader { return &blockReader{b: b} }

// next gives the next record without its length prefix, nil after the last.
// The bytes are valid until the next call.
func (r *blockReader) next() ([]byte, error) {
	for len(r.rest.rest) == 0 {
		if r.number == len(r.b.Header.Body.Blocks) {
			return nil, nil
		}
		if err := r.load(); err != nil {
			return nil, err
		}
	}
	body := r.rest.bytes()
	if r.rest.bad || len(body) == 0 || len(body) > maxRecord {
		return nil, fmt.Errorf("cut record: %w", ErrDamaged)
	}
	return body, nil
}

func (r *blockReader) load() (err error) {
	if r.z == nil {
		if r.z, err = newBlockDecoder(); err != nil {
			return err
		}
	}
	size := r.b.Header.Body.Blocks[r.number].Size
	r.packed, r.block, err = r.b.readBlock(r.z, r.off, size, r.packed, r.block)
	r.number, r.off, r.rest = r.number+1, r.off+size, decoder{rest: r.block}
	return err
}

// each calls fn for every record, with its length prefix.
func (r *blockReader) each(fn func(encoded []byte) error) error {
	defer r.close()
	for {
		before := r.rest.rest
		body, err := r.next()
		if body == nil || err != nil {
			return err
		}
		if len(before) == 0 {
			before = r.block
		}
		if err := fn(before[:len(before)-len(r.rest.rest)]); err != nil {
			return err
		}
	}
}

func (r *blockReader) close() {
	if r.z != nil {
		r.z.Close()
	}
}
