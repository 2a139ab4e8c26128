package keyed

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// The digest of nothing under the key and nonce of zeros is the tag of test case 1 of
// the GCM specification (McGrew and Viega, 2005, appendix B).
func TestIsGMAC(t *testing.T) {
	h, err := New(Key{})
	if err != nil {
		t.Fatal(err)
	}
	if d := h.Sum(0, nil); hex.EncodeToString(d[:]) != "58e2fccefa7e3061367f1d57a4e7455a" {
		t.Errorf("%x", d)
	}
}

// Each bit of a string, its length, its number and the key count; nothing else does.
func TestEverythingCounts(t *testing.T) {
	b := make([]byte, 300)
	random := rand.NewChaCha8([32]byte{9})
	random.Read(b)
	key := NewKey()
	h := hash(t, key)
	want := h.Sum(7, b)
	if got := hash(t, key).Sum(7, bytes.Clone(b)); got != want {
		t.Errorf("%x, then %x", want, got)
	}
	seen := map[[Size]byte]string{want: "the string"}
	other := func(what string, d [Size]byte) {
		if was := seen[d]; was != "" {
			t.Errorf("%s has the digest of %s", what, was)
		}
		seen[d] = what
	}
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		other("another bit", h.Sum(7, b))
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range len(b) {
		other("a beginning", h.Sum(7, b[:n]))
	}
	other("a zero more", h.Sum(7, append(bytes.Clone(b), 0)))
	other("another number", h.Sum(8, b))
	other("another key", hash(t, NewKey()).Sum(7, b))
}

func hash(t *testing.T, k Key) *Hash {
	t.Helper()
	h, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
