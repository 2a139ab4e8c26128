package baseline

import (
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/manysha"
)

// lasting is a content that can be read after its visit, too, until its source
// is closed: next gives it piece by piece, in buf, and io.EOF after the last.
// Object and names of the visit then stay as they are as well.
type lasting interface {
	Lasting(buf []byte) (next func() ([]byte, error))
}

// streamPiece is how much of a stream is read at once: those of all lanes stay in
// a core's second cache.
const streamPiece = 32 << 10

// stream is a large content whose digests are computed beside others, and its
// record, which waits for them.
type stream struct {
	h      *hasher
	record Record
	next   func() ([]byte, error)
	buf    []byte
	blake3 *blake3.Hasher
	check  filewatch.Attributes
	read   int64
}

// stream takes a content that is read later, and says whether it does; the record
// is then given on when its digests are there.
func (h *hasher) stream(r *Record, content any, check filewatch.Attributes) bool {
	l, ok := content.(lasting)
	if !ok || h.batch == nil || h.old != nil || h.log != nil || h.keep || !check.Has(filewatch.AttrSHA256) || r.Size <= smallContent {
		return false
	}
	s := h.idleStream()
	*s = stream{h: h, record: *r, next: l.Lasting(s.buf), buf: s.buf, blake3: s.blake3, check: check}
	h.batch.many.Stream(s)
	return true
}

// idleStream has buffers that nobody uses.
func (h *hasher) idleStream() *stream {
	last := len(h.idle) - 1
	if last < 0 {
		return &stream{buf: make([]byte, streamPiece), blake3: blake3.New()}
	}
	s := h.idle[last]
	h.idle = h.idle[:last]
	s.blake3.Reset()
	return s
}

// Next implements [manysha.Source].
func (s *stream) Next() ([]byte, error) {
	if err := s.h.ctx.Err(); err != nil {
		return nil, err
	}
	piece, err := s.next()
	if err != nil {
		return nil, err
	}
	if s.h.limit != nil {
		if err := s.h.limit(s.h.ctx, len(piece)); err != nil {
			return nil, err
		}
	}
	if s.check&blake3Attributes != 0 {
		s.blake3.Write(piece)
	}
	s.read += int64(len(piece))
	return piece, nil
}

// End implements [manysha.Source].
func (s *stream) End(sum *[manysha.Size]byte, err error) {
	if err != nil {
		err = fmt.Errorf("read content after %d bytes: %w", s.read, err)
	} else {
		err = whole(s.read, s.record.Size)
	}
	s.record.SHA256 = *sum
	if s.check&blake3Attributes != 0 {
		s.blake3.Sum(s.record.BLAKE3[:0])
	}
	if err := s.h.capture.finish(s.h, &s.record, s.read, err); err != nil && s.h.failed == nil {
		s.h.failed = err
	}
	s.record, s.next = Record{}, nil
	s.h.idle = append(s.h.idle, s)
}
