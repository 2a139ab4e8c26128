// Package manysha computes SHA-256 of many messages side by side on one core.
//
// A message alone leaves most of a core idle: each of its rounds waits for the
// one before. With AVX-512, 16 messages go through the rounds together, one in
// each 32-bit lane of the vector registers; with the SHA extensions only, or
// where few messages are left, two are interleaved, because SHA256RNDS2 takes four
// cycles to give a result and another can start in two. The result is that of
// crypto/sha256, which the tests compare with; use that where [Available] says
// no.
package manysha

import (
	"cmp"
	"slices"
)

// Size is the length of a digest.
const Size = 32

const (
	blockSize = 64
	maxLanes  = 16
)

// Source is a message that comes in pieces.
type Source interface {
	// Next gives the next piece, which stays as it is until Next is called again,
	// and io.EOF after the last.
	Next() ([]byte, error)
	// End is called once: with the digest, or with what Next failed with.
	End(sum *[Size]byte, err error)
}

// Many hashes queued messages and, beside them, others that come in pieces. The
// zero value is ready. Not for concurrent use.
type Many struct {
	queue []message // still to do
	lanes [maxLanes]lane
	words words
	ready bool
	width int  // how many of the lanes are used
	lean  bool // blocks16Lean is faster than blocks16
}

// message is a whole one.
type message struct {
	data []byte
	sum  *[Size]byte
}

func (m *Many) begin() {
	if !m.ready {
		m.ready, m.width, m.lean = true, width(), lean()
	}
}

// Add queues a whole message. data must stay as it is and sum will be written
// by [Many.Flush] at the latest.
func (m *Many) Add(data []byte, sum *[Size]byte) { m.queue = append(m.queue, message{data, sum}) }

// Stream takes a message that comes in pieces. It is read while others are
// hashed; when all lanes are taken, until one is free.
func (m *Many) Stream(s Source) {
	m.begin()
	for {
		if i := m.idle(); i >= 0 {
			m.start(i, lane{source: s})
			return
		}
		if busy, _ := m.fill(); busy == m.width {
			m.step(busy)
		}
	}
}

// idle is a lane without a message, -1 for none.
func (m *Many) idle() int {
	for i := range m.width {
		if !m.lanes[i].busy {
			return i
		}
	}
	return -1
}

// Flush hashes everything queued, the longest first so that the lanes end
// together. Streams go on meanwhile, and may not end.
func (m *Many) Flush() {
	m.begin()
	slices.SortFunc(m.queue, func(a, b message) int { return cmp.Compare(len(a.data), len(b.data)) })
	for busy, queued := m.fill(); queued; busy, queued = m.fill() {
		m.step(busy)
	}
}

// Finish hashes everything queued and all streams to their end.
func (m *Many) Finish() {
	m.begin()
	m.Flush()
	for busy, _ := m.fill(); busy > 0; busy, _ = m.fill() {
		m.step(busy)
	}
}

// start gives a lane its message.
func (m *Many) start(i int, l lane) {
	l.busy = true
	m.lanes[i] = l
	m.words.begin(i)
}

// fill sees to it that each busy lane has blocks, and gives idle ones what is
// queued. It says how many are busy, and whether anything queued is left to do.
func (m *Many) fill() (busy int, queued bool) {
	for i := range m.width {
		l := &m.lanes[i]
		for l.blocks == 0 {
			if l.busy && l.refill() {
				break
			}
			if l.busy {
				m.end(i)
			}
			last := len(m.queue) - 1
			if last < 0 {
				break
			}
			m.start(i, lane{rest: m.queue[last].data, size: uint64(len(m.queue[last].data)), sum: m.queue[last].sum})
			m.queue = m.queue[:last]
		}
		if l.busy {
			busy++
			queued = queued || l.source == nil
		}
	}
	return busy, queued || len(m.queue) > 0
}

// end hands over the digest of a lane's message.
func (m *Many) end(i int) {
	l := &m.lanes[i]
	source, err, sum := l.source, l.err, l.sum
	if source == nil {
		m.words.put(i, sum)
		*l = lane{}
		return
	}
	var own [Size]byte
	m.words.put(i, &own)
	*l = lane{}
	source.End(&own, err)
}

// step hashes as many blocks as every busy lane has.
func (m *Many) step(busy int) {
	n := 0
	for i := range m.width {
		if l := &m.lanes[i]; l.busy && (n == 0 || l.blocks < n) {
			n = l.blocks
		}
	}
	if busy > mostPaired {
		m.together(n)
	} else {
		m.inPairs(n)
	}
}

// mostPaired is up to how many busy lanes it is faster to hash two at a time: a
// block of 16 lanes costs 530 cycles of a Zen 5, two interleaved ones 155.
const mostPaired = 6

// together hashes n blocks of all 16 lanes. Idle ones do the work of another
// for nothing.
func (m *Many) together(n int) {
	var at [maxLanes]*byte
	var any *byte
	for i := range m.lanes {
		if at[i] = m.lanes[i].at; m.lanes[i].busy {
			any = at[i]
		}
	}
	for i := range m.lanes {
		if !m.lanes[i].busy {
			at[i] = any
		}
	}
	if m.lean {
		blocks16Lean(&m.words, &at, n)
	} else {
		blocks16(&m.words, &at, n)
	}
	for i := range m.lanes {
		m.lanes[i].advance(n)
	}
}

// inPairs hashes n blocks of each busy lane, two at a time.
func (m *Many) inPairs(n int) {
	first := -1
	for i := range m.width {
		switch {
		case !m.lanes[i].busy:
		case first < 0:
			first = i
		default:
			m.pair(first, i, n)
			first = -1
		}
	}
	if first >= 0 {
		m.pair(first, first, n)
	}
}

func (m *Many) pair(i, j, n int) {
	a, b := m.words.pair(i), m.words.pair(j)
	blocks2(&a, &b, m.lanes[i].at, m.lanes[j].at, n)
	m.words.unpair(i, &a)
	m.lanes[i].advance(n)
	if i != j {
		m.words.unpair(j, &b)
		m.lanes[j].advance(n)
	}
}
