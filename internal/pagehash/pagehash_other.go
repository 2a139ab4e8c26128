//go:build !amd64

package pagehash

func sum(digests, data []byte) { sumEach(digests, data) }
