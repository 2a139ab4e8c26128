// Package keyed digests many short byte strings under a key, several times faster
// than SHA-256 does: it is GMAC (NIST SP 800-38D, 5.2), for which processors have
// instructions.
//
// It answers one question: is this the string that was digested? Two different
// strings of n blocks of 16 bytes have the same digest with a probability of at most
// n+1 in 2^128 over all keys, whatever the strings are and whoever chose them, as long
// as that was done without knowing the key or any digest. So keys are random, one for
// each collection of digests, and both are kept where only the keeper reads. Who reads
// the key can make strings of the same digest: this is no signature, and no digest for
// what others are to verify.
package keyed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// Size is the length of a digest in bytes.
const Size = 16

// Key is that of one collection of digests.
type Key [16]byte

// NewKey is a random one.
func NewKey() (k Key) {
	rand.Read(k[:])
	return k
}

// Hash makes digests. It is not safe for concurrent use.
type Hash struct {
	gcm   cipher.AEAD
	nonce []byte
	out   []byte
}

// New makes digests under a key. An error says that this program was told to have no
// such thing (GODEBUG=fips140=only).
func New(k Key) (*Hash, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fmt.Errorf("keyed digests: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("keyed digests: %w", err)
	}
	return &Hash{gcm, make([]byte, gcm.NonceSize()), make([]byte, 0, Size)}, nil
}

// Sum is the digest of b as the string with a number: the same bytes under another
// number have another one.
func (h *Hash) Sum(number uint64, b []byte) (d [Size]byte) {
	binary.BigEndian.PutUint64(h.nonce, number)
	h.out = h.gcm.Seal(h.out[:0], h.nonce, nil, b)
	copy(d[:], h.out)
	return d
}
