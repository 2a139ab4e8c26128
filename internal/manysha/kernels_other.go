//go:build !amd64

package manysha

// Available says whether this processor has what [Many] needs.
func Available() bool { return false }

func width() int { return 2 }

func blocks2(a, b *state, pa, pb *byte, n int) { panic("manysha: not available") }

func lean() bool { return false }

func blocks16Lean(w *words, at *[maxLanes]*byte, n int) { panic("manysha: not available") }

func blocks16(w *words, at *[maxLanes]*byte, n int) { panic("manysha: not available") }
