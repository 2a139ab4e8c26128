//go:build !amd64

package twinsha

// Available says whether this processor has what [Twin] needs.
func Available() bool { return false }

func blocks2(a, b *state, pa, pb *byte, n int) { panic("twinsha: not available") }
