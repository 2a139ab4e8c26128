// Package pagehash hashes many pages of memory at once with BLAKE3.
//
// Each page's digest is plain BLAKE3 of its 4096 bytes, as any implementation
// gives it. A page has only four chunks of 1 KiB, so an implementation that
// hashes one page at a time leaves most lanes of a vector register empty: here
// chunks of several pages, then their parents, then their roots are compressed
// side by side. Where the processor lacks the instructions, pages are hashed one
// by one.
package pagehash

import "github.com/zeebo/blake3"

//go:generate go run ./gen pagehash_amd64.s

// PageSize is what is hashed apart, in bytes; DigestSize is what that gives.
const (
	PageSize   = 4096
	DigestSize = 32
)

// Sum writes the digest of each page of data to digests, one after the other. It
// panics unless data is a whole number of pages and digests has room for exactly
// as many.
func Sum(digests, data []byte) {
	if len(data)%PageSize != 0 || len(digests) != len(data)/PageSize*DigestSize {
		panic("pagehash: lengths do not match")
	}
	sum(digests, data)
}

// sumEach hashes page by page.
func sumEach(digests, data []byte) {
	for ; len(data) > 0; data, digests = data[PageSize:], digests[DigestSize:] {
		d := blake3.Sum256(data[:PageSize])
		copy(digests, d[:])
	}
}
