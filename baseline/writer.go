package baseline

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// The file: magic, blocks of records (each one zstd frame), the signed header as
// a DSSE envelope, its length (8 bytes, little-endian), magic again. The header
// comes last because it has the digest of what precedes it.
const (
	format      = 1
	fileMagic   = "plumbline baseline 1\n"
	endMagic    = "plumbend"
	payloadType = "application/vnd.plumbline.baseline.v1+json"
	blockSize   = 256 << 10 // uncompressed, before the record that fills it
)

// Magic is what a baseline's file begins with.
const Magic = fileMagic

// writer streams records that come in order. Blocks are compressed several at
// a time and written in order.
type writer struct {
	out     io.Writer
	digest  *blake3.Hasher
	zstd    *zstd.Encoder
	header  *Header
	block   *block
	packing []*block // being compressed, oldest first
	free    []*block
}

// block is a part of the file that can be decompressed alone.
type block struct {
	path   string // of its first record
	plain  []byte
	packed []byte
	done   chan struct{} // packed is ready
}

// packers is how many blocks are compressed at once.
const packers = 2

func newWriter(out io.Writer, header *Header) (*writer, error) {
	// Each block is compressed alone and at a fixed level: the same records give
	// the same bytes. Most of a record's bytes are digests, so that a higher level
	// takes half as long again for 2 % less.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(packers), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	header.Format = format
	header.Objects, header.Unread, header.Body = 0, 0, Body{}
	w := &writer{out: out, digest: blake3.New(), zstd: z, header: header}
	if _, err := io.WriteString(out, fileMagic); err != nil {
		return nil, fmt.Errorf("write baseline: %w", err)
	}
	return w, nil
}

// add appends one encoded record.
func (w *writer) add(encoded []byte) error {
	if w.block == nil {
		w.block = &block{}
		if n := len(w.free); n > 0 {
			w.block, w.free = w.free[n-1], w.free[:n-1]
		}
		path, _ := splitKey(encoded)
		w.block.path, w.block.plain = string(path), w.block.plain[:0]
	}
	w.block.plain = append(w.block.plain, encoded...)
	w.header.Objects++
	if len(w.block.plain) < blockSize {
		return nil
	}
	return w.pack()
}

// pack starts to compress the block, and writes the oldest when enough are
// being compressed.
func (w *writer) pack() error {
	b := w.block
	if b == nil {
		return nil
	}
	w.block, b.done = nil, make(chan struct{})
	w.packing = append(w.packing, b)
	go func() {
		defer close(b.done)
		b.packed = w.zstd.EncodeAll(b.plain, b.packed[:0])
	}()
	if len(w.packing) <= packers {
		return nil
	}
	return w.write()
}

// write waits for the oldest block and writes it.
func (w *writer) write() error {
	b := w.packing[0]
	w.packing = w.packing[1:]
	<-b.done
	w.digest.Write(b.packed)
	if _, err := w.out.Write(b.packed); err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	body := &w.header.Body
	body.Size += int64(len(b.packed))
	body.Blocks = append(body.Blocks, Block{int64(len(b.packed)), filewatch.EscapePath(b.path)})
	w.free = append(w.free, b)
	return nil
}

// finish signs and writes the header.
func (w *writer) finish(s sign.Signer) error {
	if err := w.pack(); err != nil {
		return err
	}
	for len(w.packing) > 0 {
		if err := w.write(); err != nil {
			return err
		}
	}
	w.header.Body.BLAKE3 = hex.EncodeToString(w.digest.Sum(nil))
	text, err := json.Marshal(w.header)
	if err != nil {
		return fmt.Errorf("encode header: %w", err)
	}
	envelope, err := sign.Seal(payloadType, text, s)
	if err != nil {
		return err
	}
	if len(envelope) > maxHeader {
		return errors.New("write baseline: too many accepted changes for one header: create a new baseline")
	}
	tail := binary.LittleEndian.AppendUint64(envelope, uint64(len(envelope)))
	if _, err := w.out.Write(append(tail, endMagic...)); err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	return nil
}
