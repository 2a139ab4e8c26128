package baseline

import "github.com/plumbline-sec/plumbline/internal/manysha"

// Bounds on what waits for its SHA-256 in one worker. It is as much as stays in a
// core's second cache beside the pieces of the streams.
const (
	smallContent = 64 << 10 // what is larger is not kept
	waitingBytes = 512 << 10
	mostWaiting  = 2048
)

// later stands for a SHA-256 that is not there yet.
var later = Digest{0: 1, 31: 1}

// batch computes SHA-256 of many contents side by side: small ones are kept
// until there are enough of them, and streams are read beside them. Records
// wait, encoded, for their digest.
type batch struct {
	many     manysha.Many
	contents []byte // small ones, one after the other; never grows
	from     int    // where the present one starts
	waiting  []waiter
	sums     []Digest // of the waiting records; never grows
	encoded  []byte
	pending  bool // the present content's digest is one of sums
}

// waiter is one record in encoded, and where its SHA-256 goes.
type waiter struct{ start, end, sha256 int }

// full says that it is time for flush.
func (b *batch) full() bool {
	return b.contents != nil && (cap(b.contents)-len(b.contents) < smallContent || len(b.sums) == cap(b.sums))
}

// begin starts the next content; full must be false.
func (b *batch) begin() {
	if b.contents == nil {
		b.contents, b.sums = make([]byte, 0, waitingBytes), make([]Digest, 0, mostWaiting)
	}
	b.from, b.pending = len(b.contents), false
}

// write keeps the next piece of the content. It is false when that makes it too
// large.
func (b *batch) write(piece []byte) bool {
	if len(b.contents)-b.from+len(piece) > smallContent {
		return false
	}
	b.contents = append(b.contents, piece...)
	return true
}

// drop gives back what was kept of the present content.
func (b *batch) drop() (content []byte) {
	content, b.contents = b.contents[b.from:], b.contents[:b.from]
	return content
}

// end promises the digest of the content.
func (b *batch) end() Digest {
	b.sums = append(b.sums, Digest{})
	b.many.Add(b.contents[b.from:], (*[manysha.Size]byte)(&b.sums[len(b.sums)-1]))
	b.pending = true
	return later
}

// wait takes a record whose digest is to come, and says whether it is one.
func (b *batch) wait(encoded []byte, at int, sum Digest) bool {
	if !b.pending || sum != later {
		return false
	}
	start := len(b.encoded)
	b.encoded = append(b.encoded, encoded...)
	b.waiting = append(b.waiting, waiter{start, len(b.encoded), start + at})
	b.pending = false
	return true
}

// flush computes the digests of what is kept and gives the records on.
func (b *batch) flush(add func(encoded []byte) error) error {
	b.many.Flush()
	for i, w := range b.waiting {
		copy(b.encoded[w.sha256:], b.sums[i][:])
		if err := add(b.encoded[w.start:w.end]); err != nil {
			return err
		}
	}
	b.contents, b.sums, b.waiting, b.encoded = b.contents[:0], b.sums[:0], b.waiting[:0], b.encoded[:0]
	return nil
}
