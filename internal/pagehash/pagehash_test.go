package pagehash

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/blake3"
)

// want are the digests as another implementation gives them.
func want(data []byte) []byte {
	var out []byte
	for at := 0; at < len(data); at += PageSize {
		d := blake3.Sum256(data[at : at+PageSize])
		out = append(out, d[:]...)
	}
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// TestSumIsBLAKE3 hashes every number of pages up to four times what fits in a
// register, at addresses that fit no register.
func TestSumIsBLAKE3(t *testing.T) {
	for name, sum := range implementations() {
		t.Run(name, func(t *testing.T) {
			for pages := range 66 {
				into := pages % 5
				data := random(into + pages*PageSize)[into:]
				got := bytes.Repeat([]byte{0xa5}, pages*DigestSize+into+1)
				sum(got[into:len(got)-1:len(got)-1], data)
				if !bytes.Equal(got[into:len(got)-1], want(data)) {
					t.Fatalf("%d pages: digests differ from BLAKE3", pages)
				}
				if got[len(got)-1] != 0xa5 {
					t.Fatalf("%d pages: wrote past the digests", pages)
				}
			}
		})
	}
}

func TestSumRefusesOddLengths(t *testing.T) {
	for _, lengths := range [][2]int{{32, 4095}, {31, 4096}, {64, 4096}, {0, 4096}, {32, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes of digests for %d bytes were accepted", lengths[0], lengths[1])
				}
			}()
			Sum(make([]byte, lengths[0]), make([]byte, lengths[1]))
		}()
	}
}

// FuzzSum compares with BLAKE3 on pages made of what the fuzzer gives.
func FuzzSum(f *testing.F) {
	f.Add([]byte{0}, uint8(17))
	f.Add([]byte("page"), uint8(1))
	f.Fuzz(func(t *testing.T, seed []byte, pages uint8) {
		data := make([]byte, int(pages%40)*PageSize)
		for at := 0; at < len(data) && len(seed) > 0; at += len(seed) {
			copy(data[at:], seed)
		}
		for name, sum := range implementations() {
			got := make([]byte, len(data)/PageSize*DigestSize)
			sum(got, data)
			if !bytes.Equal(got, want(data)) {
				t.Errorf("%s: digests differ from BLAKE3", name)
			}
		}
	})
}

func BenchmarkSum(b *testing.B) {
	data := random(1 << 20)
	digests := make([]byte, len(data)/PageSize*DigestSize)
	for name, sum := range implementations() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				sum(digests, data)
			}
		})
	}
	b.Run("blake3 in one piece", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			blake3.Sum256(data)
		}
	})
}
