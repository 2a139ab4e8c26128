package twinsha

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

func TestAgainstStandardLibrary(t *testing.T) {
	needed(t)
	random := rand.NewChaCha8([32]byte{7})
	numbers := rand.New(random)
	blob := make([]byte, 1<<20)
	random.Read(blob)
	var lengths []int
	for n := range 300 { // every padding
		lengths = append(lengths, n)
	}
	for range 300 {
		lengths = append(lengths, numbers.IntN(20_000))
	}
	for round := range 4 {
		if round > 0 {
			numbers.Shuffle(len(lengths), func(i, j int) { lengths[i], lengths[j] = lengths[j], lengths[i] })
		}
		var w Twin
		sums := make([][Size]byte, len(lengths))
		var stream [Size]byte
		w.Begin()
		streamed, streams := blob[:0], 0
		for i, n := range lengths {
			w.Add(blob[i:i+n], &sums[i])
			switch numbers.IntN(6) {
			case 0: // another piece of the stream
				n := numbers.IntN(3000)
				w.Write(blob[len(streamed) : len(streamed)+n])
				streamed = blob[:len(streamed)+n]
			case 1:
				w.End(&stream)
				if stream != sha256.Sum256(streamed) {
					t.Fatalf("stream of %d bytes is wrong", len(streamed))
				}
				w.Begin()
				streamed, streams = blob[:0], streams+1
			case 2:
				if round%2 == 0 {
					w.End(&stream)
					w.Flush()
					w.Begin()
					streamed = blob[:0]
				}
			}
		}
		w.End(&stream)
		w.Flush()
		for i, n := range lengths {
			if sums[i] != sha256.Sum256(blob[i:i+n]) {
				t.Fatalf("message %d of %d bytes is wrong", i, n)
			}
		}
		if streams == 0 {
			t.Fatal("no stream was tried")
		}
	}
}

// FuzzTwin cuts a message into one that is queued and one that is streamed.
func FuzzTwin(f *testing.F) {
	f.Add([]byte("abc"), uint16(1), uint8(1))
	f.Add(bytes.Repeat([]byte{0x80}, 500), uint16(250), uint8(63))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16, piece uint8) {
		needed(t)
		at := min(int(cut), len(data))
		var w Twin
		var a, b [Size]byte
		w.Add(data[:at], &a)
		w.Begin()
		for rest := data[at:]; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			w.Write(rest[:n])
			rest = rest[n:]
		}
		w.End(&b)
		w.Flush()
		if a != sha256.Sum256(data[:at]) || b != sha256.Sum256(data[at:]) {
			t.Fatalf("%d and %d bytes: %x %x", at, len(data)-at, a, b)
		}
	})
}

func needed(t *testing.T) {
	t.Helper()
	if !Available() {
		t.Skip("this processor has no SHA extensions: crypto/sha256 is used instead")
	}
}

func BenchmarkTwin(b *testing.B) {
	data := make([]byte, 16<<10)
	for name, run := range map[string]func(){
		"two": func() {
			var w Twin
			var x, y [Size]byte
			w.Add(data, &x)
			w.Add(data, &y)
			w.Flush()
		},
		"standard": func() {
			sha256.Sum256(data)
			sha256.Sum256(data)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(2 * int64(len(data)))
			for b.Loop() {
				run()
			}
		})
	}
}
