package baseline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/manysha"
)

// hasher has what one worker needs to digest and encode one object after the
// other without allocating.
type hasher struct {
	capture    *capture
	ctx        context.Context
	record     Record // of the present visit
	limit      func(context.Context, int) error
	blake3     *blake3.Hasher
	sha256     hash.Hash // of what batch does not keep
	batch      *batch    // nil where the processor has nothing for it
	withBLAKE3 bool
	withSHA    bool
	alone      bool       // the content's SHA-256 is computed as it comes
	old        *prefix    // nil when the object's old content is of no interest
	log        *movedLog  // that the object is a rotation of, nil for none
	packed     string     // what its name says it is packed with
	unpacking  *unpacking // nil where it is not
	search     search     // of the log, in the content as it is
	keep       bool       // content is text that a diff may be made of
	text       []byte
	read       int64
	buf        []byte // for contents that cannot write themselves
	scratch    []byte
	encoded    []byte
	idle       []*stream
	failed     error     // of what a stream gave on
	flushed    time.Time // of a capture that keeps its progress
	// objects and unread count records, bytes what was read of contents.
	objects, unread uint64
	bytes           int64
}

// newHasher gives its encoded records to the capture.
func newHasher(c *capture) *hasher {
	h := &hasher{capture: c, blake3: blake3.New(), sha256: sha256.New()}
	if manysha.Available() {
		h.batch = &batch{}
	}
	return h
}

// sum fills the digests the rule asks for and returns how much it read. A
// content that is shorter than the object's size is an error: it was cut while
// it was read, or the source lies. After sum comes put.
func (h *hasher) sum(r *Record, content io.Reader, check filewatch.Attributes) (int64, error) {
	h.read, h.text, h.search, h.unpacking = 0, h.text[:0], search{}, nil
	h.withBLAKE3 = check&blake3Attributes != 0
	if h.log != nil {
		h.search = h.log.search(h.packed)
		h.unpacking = h.log.unpacks(h.ctx, h.packed)
		defer h.unpacking.end()
	}
	h.withSHA = check.Has(filewatch.AttrSHA256)
	if h.withBLAKE3 {
		h.blake3.Reset()
	}
	if h.withSHA {
		if err := h.beginSHA(); err != nil {
			return 0, err
		}
	}
	if err := h.copy(content); err != nil {
		return h.read, fmt.Errorf("read content after %d bytes: %w", h.read, err)
	}
	if err := whole(h.read, r.Size); err != nil {
		return h.read, err
	}
	h.comparePrefix(nil)
	if h.log != nil {
		found := append(h.search.found, h.unpacking.end()...)
		if err := h.ctx.Err(); err != nil { // which unpacking does not wait for
			return h.read, err
		}
		h.log.holds(r.ID(), found)
	}
	if h.withBLAKE3 {
		h.blake3.Sum(r.BLAKE3[:0])
	}
	switch {
	case !h.withSHA:
	case h.alone:
		h.sha256.Sum(r.SHA256[:0])
	default:
		r.SHA256 = h.batch.end()
	}
	return h.read, nil
}

// whole is an error unless all of a content was read.
func whole(read, size int64) error {
	if read < size {
		return fmt.Errorf("content ends after %d of %d bytes: %w", read, size, io.ErrUnexpectedEOF)
	}
	return nil
}

func (h *hasher) beginSHA() error {
	h.alone = h.batch == nil
	if h.alone {
		h.sha256.Reset()
		return nil
	}
	if h.batch.full() {
		if err := h.flush(); err != nil {
			return err
		}
	}
	h.batch.begin()
	return nil
}

func (h *hasher) writeSHA(piece []byte) {
	if !h.alone && !h.batch.write(piece) {
		h.alone = true
		h.sha256.Reset()
		h.sha256.Write(h.batch.drop())
	}
	if h.alone {
		h.sha256.Write(piece)
	}
}

func (h *hasher) count(r *Record, read int64) {
	h.objects++
	h.bytes += read
	if r.Unread != "" {
		h.unread++
	}
}

// put encodes the record, which waits for its SHA-256 or is given on.
func (h *hasher) put(r *Record) error {
	var at int
	h.encoded, at = encodeRecord(h.encoded[:0], r, &h.scratch)
	if h.batch != nil && h.batch.wait(h.encoded, at, r.SHA256) {
		return nil
	}
	return h.capture.add(h.encoded)
}

// flush gives on what waits, but not the streams.
func (h *hasher) flush() error {
	if h.batch == nil {
		return nil
	}
	return errors.Join(h.batch.flush(h.capture.add), h.failed)
}

// finish gives on everything.
func (h *hasher) finish() error {
	if h.batch == nil {
		return nil
	}
	h.batch.many.Finish()
	return h.flush()
}

func (h *hasher) copy(content io.Reader) error {
	if w, ok := content.(io.WriterTo); ok {
		_, err := w.WriteTo(h)
		return err
	}
	if h.buf == nil {
		h.buf = make([]byte, 256<<10)
	}
	_, err := io.CopyBuffer(h, content, h.buf)
	return err
}

// Write digests one piece of content.
func (h *hasher) Write(piece []byte) (int, error) {
	if h.limit != nil {
		if err := h.limit(h.ctx, len(piece)); err != nil {
			return 0, err
		}
	}
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	h.comparePrefix(piece)
	if h.unpacking != nil {
		h.unpacking.Write(piece) // an error says that it has seen enough
	}
	if h.keep {
		h.text = append(h.text, piece[:min(len(piece), MaxText+1-len(h.text))]...)
	}
	if h.withBLAKE3 {
		h.blake3.Write(piece)
	}
	if h.withSHA {
		h.writeSHA(piece)
	}
	h.read += int64(len(piece))
	return len(piece), nil
}

// comparePrefix looks whether what has been digested so far and the beginning
// of piece are the old content, or one of the log that the object is a rotation of.
func (h *hasher) comparePrefix(piece []byte) {
	if h.log != nil && h.withBLAKE3 {
		h.search.goesOn(h.blake3, h.read, piece)
	}
	for old := h.old; old != nil && h.withBLAKE3; old = old.also {
		if old.kept || old.size < h.read || old.size > h.read+int64(len(piece)) {
			continue
		}
		at := h.blake3.Clone()
		at.Write(piece[:old.size-h.read])
		var got Digest
		at.Sum(got[:0])
		old.kept = got == old.want
	}
}
