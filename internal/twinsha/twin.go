// Package twinsha computes SHA-256 of two messages at once on one core.
//
// The SHA extensions of x86 take four cycles to give a result and can start
// another in two: one message alone leaves half of the unit idle, and whole
// trees of small files are never short of a second one. The result is that of
// crypto/sha256, which the tests compare with; use that where [Available] says
// no.
package twinsha

import "encoding/binary"

// Size is the length of a digest.
const Size = 32

const blockSize = 64

// state is F, E, B, A, H, G, D, C: the order in which SHA256RNDS2 has them.
type state [8]uint32

// initial is FIPS 180-4, 5.3.3.
var initial = state{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}

// put writes the digest: A to H, big-endian.
func (s *state) put(sum *[Size]byte) {
	for i, from := range [8]int{3, 2, 7, 6, 1, 0, 5, 4} {
		binary.BigEndian.PutUint32(sum[4*i:], s[from])
	}
}

// constants is FIPS 180-4, 4.2.2.
//
//lint:ignore U1000 the assembly uses it
var constants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// Twin hashes queued messages two at a time, and a stream of pieces beside
// them. The zero value is ready. Not for concurrent use.
type Twin struct {
	queue  []message
	next   int     // in queue
	lanes  [2]lane // the stream, if there is one, is in the first
	stream pieces
}

// message is a whole one, still to do.
type message struct {
	data []byte
	sum  *[Size]byte
}

// lane is a message under way.
type lane struct {
	state state
	left  []byte // whole blocks
	tail  [2 * blockSize]byte
	pad   []byte // what of tail follows left
	sum   *[Size]byte
	busy  bool
}

// start takes the rest of a message of size bytes in all.
func (l *lane) start(rest []byte, size uint64, sum *[Size]byte) {
	whole := len(rest) &^ (blockSize - 1)
	l.left, l.sum, l.busy = rest[:whole], sum, true
	l.tail = [2 * blockSize]byte{}
	n := copy(l.tail[:], rest[whole:])
	l.tail[n] = 0x80
	end := blockSize
	if n+1+8 > blockSize {
		end = 2 * blockSize
	}
	binary.BigEndian.PutUint64(l.tail[end-8:], size*8)
	l.pad = l.tail[:end]
}

// blocks is how many whole blocks can be done at once; 0 when the message is
// done, and then its digest has been written.
func (l *lane) blocks() int {
	if len(l.left) == 0 {
		l.left, l.pad = l.pad, nil
	}
	if len(l.left) == 0 && l.busy {
		l.busy = false
		if l.sum != nil {
			l.state.put(l.sum)
		}
	}
	return len(l.left) / blockSize
}

// Add queues a whole message. data must stay as it is and sum will be written
// by [Twin.Flush] at the latest.
func (t *Twin) Add(data []byte, sum *[Size]byte) { t.queue = append(t.queue, message{data, sum}) }

// Flush hashes everything queued. It must not come between [Twin.Begin] and
// [Twin.End].
func (t *Twin) Flush() {
	for t.fill(&t.lanes[0]) || t.fill(&t.lanes[1]) {
		t.step()
	}
}

// fill gives an idle lane the next message, and says whether the lane is busy.
func (t *Twin) fill(l *lane) bool {
	for l.blocks() == 0 {
		if t.next == len(t.queue) {
			t.queue, t.next = t.queue[:0], 0
			return false
		}
		m := t.queue[t.next]
		t.next++
		l.state = initial
		l.start(m.data, uint64(len(m.data)), m.sum)
	}
	return true
}

// step does as many blocks as both lanes have, or those of the only busy one.
func (t *Twin) step() {
	a, b := &t.lanes[0], &t.lanes[1]
	t.fill(a)
	t.fill(b)
	n, m := a.blocks(), b.blocks()
	switch {
	case n == 0 && m == 0:
	case m == 0:
		a.alone(n)
	case n == 0:
		b.alone(m)
	default:
		n = min(n, m)
		blocks2(&a.state, &b.state, &a.left[0], &b.left[0], n)
		a.left, b.left = a.left[n*blockSize:], b.left[n*blockSize:]
	}
}

func (l *lane) alone(n int) {
	var other state
	blocks2(&l.state, &other, &l.left[0], &l.left[0], n)
	l.left = l.left[n*blockSize:]
}
