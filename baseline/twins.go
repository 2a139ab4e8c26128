package baseline

import "github.com/plumbline-sec/plumbline/internal/twinsha"

// Bounds on what waits for its SHA-256 in one worker.
const (
	smallContent = 512 << 10 // what is larger is hashed as it comes
	waitingBytes = 6 << 20
	mostWaiting  = 2048
)

// later stands for a SHA-256 that is not there yet.
var later = Digest{0: 1, 31: 1}

// twins computes SHA-256 of two contents at once: small ones are kept until
// there are enough of them, large ones are hashed as they come, beside the small
// ones. Records wait, encoded, for their digest.
type twins struct {
	twin     twinsha.Twin
	contents []byte // small ones, one after the other; never grows
	from     int    // where the present one starts
	stream   bool   // the present one is large
	waiting  []waiter
	sums     []Digest // of the waiting records; never grows
	encoded  []byte
	pending  bool // the present content's digest is one of sums
}

// waiter is one record in encoded, and where its SHA-256 goes.
type waiter struct{ start, end, sha256 int }

// full says that it is time for flush.
func (t *twins) full() bool {
	return cap(t.contents)-len(t.contents) < smallContent || len(t.sums) == cap(t.sums)
}

// begin starts the next content; full must be false.
func (t *twins) begin() { t.from, t.stream, t.pending = len(t.contents), false, false }

// write takes the next piece of the content.
func (t *twins) write(piece []byte) {
	if !t.stream && len(t.contents)-t.from+len(piece) > smallContent {
		t.stream = true
		t.twin.Begin()
		t.twin.Write(t.contents[t.from:])
		t.contents = t.contents[:t.from]
	}
	if t.stream {
		t.twin.Write(piece)
		return
	}
	t.contents = append(t.contents, piece...)
}

// end gives the digest of the content, or [later].
func (t *twins) end(sum *Digest) {
	if t.stream {
		t.twin.End((*[twinsha.Size]byte)(sum))
		return
	}
	t.sums = append(t.sums, Digest{})
	t.twin.Add(t.contents[t.from:], (*[twinsha.Size]byte)(&t.sums[len(t.sums)-1]))
	*sum, t.pending = later, true
}

// wait takes a record whose digest is to come, and says whether it is one.
func (t *twins) wait(encoded []byte, at int, sum Digest) bool {
	if !t.pending || sum != later {
		return false
	}
	start := len(t.encoded)
	t.encoded = append(t.encoded, encoded...)
	t.waiting = append(t.waiting, waiter{start, len(t.encoded), start + at})
	t.pending = false
	return true
}

// flush computes the digests and gives the records on.
func (t *twins) flush(add func(encoded []byte) error) error {
	if t.contents == nil {
		t.contents, t.sums = make([]byte, 0, waitingBytes), make([]Digest, 0, mostWaiting)
		return nil
	}
	t.twin.Flush()
	for i, w := range t.waiting {
		copy(t.encoded[w.sha256:], t.sums[i][:])
		if err := add(t.encoded[w.start:w.end]); err != nil {
			return err
		}
	}
	t.contents, t.sums, t.waiting, t.encoded = t.contents[:0], t.sums[:0], t.waiting[:0], t.encoded[:0]
	return nil
}
