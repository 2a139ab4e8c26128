//go:build !amd64

package pagehash

func implementations() map[string]func(digests, data []byte) {
	return map[string]func(digests, data []byte){"chosen": Sum, "each": sumEach}
}
