package baseline

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

const (
	maxHeader = 64 << 20
	maxBlock  = maxRecord + blockSize
)

// Baseline is an opened baseline: its signature and the digest of its records
// have been verified, of the latter see [Begin].
type Baseline struct {
	Header Header
	// Signer is the trusted key that signed it.
	Signer sign.PublicKey
	body   io.ReaderAt

	verified chan struct{} // closed once damage is known
	damage   error
}

// OpenOptions say what an opened baseline must satisfy.
type OpenOptions struct {
	// Trusted are the keys whose signature counts. None: nothing opens.
	Trusted []sign.PublicKey
	// AnySigner opens a baseline whoever signed it, and Baseline.Signer stays
	// nil: for a capture that came on a channel that says who speaks. The
	// digest of its records is checked all the same.
	AnySigner bool
	// Machine, if not nil, must be the one the baseline is of.
	Machine *filewatch.Machine
	// LeastVersion is the oldest version that is not a rollback.
	LeastVersion uint64
}

// Open reads a baseline of size bytes: it verifies the signature, then the
// digest of every record, then machine and version. r stays in use.
func Open(r io.ReaderAt, size int64, o *OpenOptions) (*Baseline, error) {
	b, err := Begin(r, size, o)
	if err != nil {
		return nil, err
	}
	if err := b.Verified(); err != nil {
		return nil, err
	}
	return b, nil
}

// Begin is [Open] that leaves the digest of the records to be verified meanwhile.
// Until [Baseline.Verified] says that it was, no record is given, and nothing may
// come of what the caller does with the header.
func Begin(r io.ReaderAt, size int64, o *OpenOptions) (*Baseline, error) {
	envelope, err := readEnvelope(r, size)
	if err != nil {
		return nil, err
	}
	var text []byte
	var key sign.PublicKey
	if o.AnySigner {
		text, err = sign.Payload(payloadType, envelope)
	} else {
		text, key, err = sign.Open(payloadType, envelope, o.Trusted)
	}
	if err != nil {
		return nil, fmt.Errorf("open baseline: %w", err)
	}
	b := &Baseline{Signer: key, verified: make(chan struct{})}
	if err := json.Unmarshal(text, &b.Header); err != nil {
		return nil, fmt.Errorf("read header: %w: %w", ErrDamaged, err)
	}
	room := size - int64(len(fileMagic)+len(envelope)+8+len(endMagic))
	if err := b.Header.check(room); err != nil {
		return nil, err
	}
	b.body = io.NewSectionReader(r, int64(len(fileMagic)), b.Header.Body.Size)
	if err := b.Header.CheckVersion(o.LeastVersion); err != nil {
		return nil, err
	}
	if o.Machine != nil {
		if err := b.Header.CheckMachine(*o.Machine); err != nil {
			return nil, err
		}
	}
	go func() {
		defer close(b.verified)
		b.damage = b.verifyBody()
	}()
	return b, nil
}

// Verified waits until the digest of the records is verified, and says why it is not
// what the signed header says.
func (b *Baseline) Verified() error {
	<-b.verified
	return b.damage
}

// OpenBytes is Open for a baseline in memory.
func OpenBytes(data []byte, o *OpenOptions) (*Baseline, error) {
	return Open(bytes.NewReader(data), int64(len(data)), o)
}

// readEnvelope checks both magics and returns the signed header.
func readEnvelope(r io.ReaderAt, size int64) ([]byte, error) {
	const tail = 8 + int64(len(endMagic))
	least := int64(len(fileMagic)) + tail
	if size < least {
		return nil, fmt.Errorf("%d bytes are no baseline: %w", size, ErrDamaged)
	}
	head := make([]byte, len(fileMagic))
	end := make([]byte, tail)
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read baseline: %w", err)
	}
	if _, err := r.ReadAt(end, size-tail); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read baseline: %w", err)
	}
	if string(head) != fileMagic || string(end[8:]) != endMagic {
		return nil, fmt.Errorf("not a baseline of format %d, or cut short: %w", format, ErrDamaged)
	}
	n := binary.LittleEndian.Uint64(end)
	if n > maxHeader || n > uint64(size-least) {
		return nil, fmt.Errorf("header of %d bytes: %w", n, ErrDamaged)
	}
	envelope := make([]byte, n)
	if _, err := r.ReadAt(envelope, size-tail-int64(n)); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read baseline: %w", err)
	}
	return envelope, nil
}

// check compares the sizes the header gives with each other and the file.
func (h *Header) check(room int64) error {
	if h.Format != format {
		return fmt.Errorf("baseline of format %d, this program reads %d: %w", h.Format, format, ErrDamaged)
	}
	var sum int64
	for _, block := range h.Body.Blocks {
		if block.Size <= 0 || block.Size > maxBlock {
			return fmt.Errorf("block of %d bytes: %w", block.Size, ErrDamaged)
		}
		sum += block.Size
	}
	if sum != h.Body.Size || sum != room {
		return fmt.Errorf("body of %d bytes in blocks of %d, the file has %d: %w", h.Body.Size, sum, room, ErrDamaged)
	}
	return nil
}

func (b *Baseline) verifyBody() error {
	digest := blake3.New()
	if _, err := io.Copy(digest, io.NewSectionReader(b.body, 0, b.Header.Body.Size)); err != nil {
		return fmt.Errorf("read baseline: %w", err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != b.Header.Body.BLAKE3 {
		return fmt.Errorf("records have digest %s, the signed header says %s: %w", got, b.Header.Body.BLAKE3, ErrDamaged)
	}
	return nil
}

// Verify reads every record and checks their order and number, which [Open]
// leaves to the signature.
func (b *Baseline) Verify() error {
	var last *Record
	var objects uint64
	for r, err := range b.Records() {
		if err != nil {
			return err
		}
		if last != nil && compareRecords(last, r) > 0 {
			return fmt.Errorf("%q comes after %q: %w", filewatch.EscapePath(r.Path()), filewatch.EscapePath(last.Path()), ErrDamaged)
		}
		last = r
		objects++
	}
	if objects != b.Header.Objects {
		return fmt.Errorf("%d records, the header says %d: %w", objects, b.Header.Objects, ErrDamaged)
	}
	return nil
}

// Records gives every record in order. It ends after the first error.
func (b *Baseline) Records() iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		blocks := b.blocks()
		defer blocks.close()
		for {
			body, err := blocks.next()
			if body == nil && err == nil {
				return
			}
			var r *Record
			if err == nil {
				r, err = decodeRecord(body)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func newBlockDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderLowmem(true))
}

// readBlock reuses the two buffers it is given.
func (b *Baseline) readBlock(z *zstd.Decoder, off, size int64, packed, block []byte) ([]byte, []byte, error) {
	if int64(cap(packed)) < size {
		packed = make([]byte, size)
	}
	packed = packed[:size]
	if err := b.Verified(); err != nil {
		return packed, block, err
	}
	if _, err := b.body.ReadAt(packed, off); err != nil && err != io.EOF {
		return packed, block, fmt.Errorf("read baseline: %w", err)
	}
	block, err := z.DecodeAll(packed, block[:0])
	if err != nil {
		return packed, block, fmt.Errorf("decompress records: %w: %w", ErrDamaged, err)
	}
	return packed, block, nil
}

// eachRecord yields the records of one block and says whether to go on.
func eachRecord(block []byte, yield func(*Record, error) bool) bool {
	d := decoder{rest: block}
	for len(d.rest) > 0 {
		body := d.bytes()
		if d.bad || len(body) > maxRecord {
			yield(nil, fmt.Errorf("cut record: %w", ErrDamaged))
			return false
		}
		r, err := decodeRecord(body)
		if !yield(r, err) || err != nil {
			return false
		}
	}
	return true
}
