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

// writer streams records that come in order.
type writer struct {
	out    io.Writer
	digest *blake3.Hasher
	zstd   *zstd.Encoder
	header *Header
	block  []byte
	packed []byte
	path   string // of the block's first record
}

func newWriter(out io.Writer, header *Header) (*writer, error) {
	// One goroutine and a fixed level: the same records give the same bytes.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(false))
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
	if len(w.block) == 0 {
		path, _ := splitKey(encoded)
		w.path = string(path)
	}
	w.block = append(w.block, encoded...)
	w.header.Objects++
	if len(w.block) < blockSize {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	w.packed = w.zstd.EncodeAll(w.block, w.packed[:0])
	w.digest.Write(w.packed)
	if _, err := w.out.Write(w.packed); err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	body := &w.header.Body
	body.Size += int64(len(w.packed))
	body.Blocks = append(body.Blocks, Block{int64(len(w.packed)), filewatch.EscapePath(w.path)})
	w.block = w.block[:0]
	return nil
}

// finish signs and writes the header.
func (w *writer) finish(s sign.Signer) error {
	if err := w.flush(); err != nil {
		return err
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
