package manysha

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// kinds are the ways in which this processor can do it.
func kinds(t testing.TB) []Many {
	t.Helper()
	if !Available() {
		t.Skip("this processor has no SHA extensions: crypto/sha256 is used instead")
	}
	if width() == maxLanes {
		return []Many{{width: 2}, {width: maxLanes}, {width: maxLanes, lean: true}}
	}
	return []Many{{width: width()}}
}

func (m *Many) String() string {
	if m.lean {
		return fmt.Sprint(m.width, " lean")
	}
	return fmt.Sprint(m.width)
}

// pieces is a source that gives data in pieces of the sizes that size says, in
// one buffer.
type pieces struct {
	data  []byte
	size  func() int
	buf   []byte
	fail  error // in the place of io.EOF
	sum   [Size]byte
	err   error
	ended int
}

func (p *pieces) Next() ([]byte, error) {
	if len(p.data) == 0 {
		if p.fail != nil {
			return nil, p.fail
		}
		return nil, io.EOF
	}
	n := min(p.size(), len(p.data))
	p.buf = append(p.buf[:0], p.data[:n]...)
	p.data = p.data[n:]
	return p.buf, nil
}

func (p *pieces) End(sum *[Size]byte, err error) { p.sum, p.err, p.ended = *sum, err, p.ended+1 }

var errTorn = errors.New("torn")

// TestAgainstStandardLibrary hashes messages of every padding and random ones
// beside streams in random pieces, some of which fail.
func TestAgainstStandardLibrary(t *testing.T) {
	for _, m := range kinds(t) {
		t.Run(m.String(), func(t *testing.T) {
			random := rand.NewChaCha8([32]byte{7})
			numbers := rand.New(random)
			blob := make([]byte, 1<<20)
			random.Read(blob)
			var lengths []int
			for n := range 300 {
				lengths = append(lengths, n)
			}
			for range 300 {
				lengths = append(lengths, numbers.IntN(20_000))
			}
			m.ready = true
			var streams []*pieces
			var whole [][]byte
			for range 3 {
				numbers.Shuffle(len(lengths), func(i, j int) { lengths[i], lengths[j] = lengths[j], lengths[i] })
				sums := make([][Size]byte, len(lengths))
				from := 0
				check := func(to int) {
					for i := from; i < to; i++ {
						if n := lengths[i]; sums[i] != sha256.Sum256(blob[i:i+n]) {
							t.Fatalf("message %d of %d bytes is wrong", i, n)
						}
					}
					from = to
				}
				for i, n := range lengths {
					m.Add(blob[i:i+n], &sums[i])
					switch numbers.IntN(12) {
					case 0, 1, 2:
						n := numbers.IntN(100_000)
						s := &pieces{data: blob[i : i+n], size: func() int { return 1 + numbers.IntN(5000) }}
						if numbers.IntN(5) == 0 {
							s.fail = errTorn
						}
						streams, whole = append(streams, s), append(whole, s.data)
						m.Stream(s)
					case 3:
						m.Flush()
						check(i + 1)
					case 4:
						m.Finish()
						check(i + 1)
					}
				}
				m.Flush()
				check(len(lengths))
			}
			m.Finish()
			for i, s := range streams {
				switch {
				case s.ended != 1:
					t.Fatalf("stream %d ended %d times", i, s.ended)
				case s.fail != nil:
					if s.err != errTorn {
						t.Fatalf("stream %d: error %v", i, s.err)
					}
				case s.err != nil || s.sum != sha256.Sum256(whole[i]):
					t.Fatalf("stream %d of %d bytes is wrong (error %v)", i, len(whole[i]), s.err)
				}
			}
			if len(streams) < 3*maxLanes {
				t.Fatalf("only %d streams were tried", len(streams))
			}
		})
	}
}

// FuzzMany cuts data into messages, one in three of which comes in pieces.
func FuzzMany(f *testing.F) {
	f.Add([]byte("abc"), uint16(1), uint8(1))
	f.Add(bytes.Repeat([]byte{0x80}, 3000), uint16(150), uint8(63))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16, piece uint8) {
		for _, m := range kinds(t) {
			m.ready = true
			var sums []*[Size]byte
			var whole [][]byte
			for rest := data; len(rest) > 0; {
				n := min(int(cut)+1, len(rest))
				s := &pieces{data: rest[:n], size: func() int { return int(piece) + 1 }}
				sums, whole = append(sums, &s.sum), append(whole, rest[:n])
				if len(sums)%3 == 0 {
					m.Stream(s)
				} else {
					m.Add(rest[:n], &s.sum)
				}
				rest = rest[n:]
			}
			m.Finish()
			for i, sum := range sums {
				if *sum != sha256.Sum256(whole[i]) {
					t.Fatalf("message %d of %d bytes: %x", i, len(whole[i]), *sum)
				}
			}
		}
	})
}

func BenchmarkMany(b *testing.B) {
	const messages = 64
	data := make([]byte, 16<<10)
	for _, m := range kinds(b) {
		b.Run("lanes "+m.String(), func(b *testing.B) {
			b.SetBytes(messages * int64(len(data)))
			m.ready = true
			var sums [messages][Size]byte
			for b.Loop() {
				for i := range sums {
					m.Add(data, &sums[i])
				}
				m.Flush()
			}
		})
	}
	b.Run("crypto/sha256", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			sha256.Sum256(data)
		}
	})
}
