package manysha

import "golang.org/x/sys/cpu"

// blocks2 hashes n blocks at pa into a and n blocks at pb into b.
//
//go:noescape
func blocks2(a, b *state, pa, pb *byte, n int)

// blocks16 hashes n blocks at each pointer into the state of its lane.
//
//go:noescape
func blocks16(w *words, at *[maxLanes]*byte, n int)

// blocks16Lean is blocks16 for processors on which it is [lean] that counts.
//
//go:noescape
func blocks16Lean(w *words, at *[maxLanes]*byte, n int)

func cpuid(leaf, sub uint32) (a, b, c, d uint32)

// Available says whether this processor has what [Many] needs: the SHA
// extensions, and SSSE3 for PSHUFB and PALIGNR (Intel SDM volume 2, CPUID: leaf
// 7 EBX bit 29, leaf 1 ECX bit 9).
func Available() bool {
	if most, _, _, _ := cpuid(0, 0); most < 7 {
		return false
	}
	_, _, c, _ := cpuid(1, 0)
	_, b, _, _ := cpuid(7, 0)
	return c&(1<<9) != 0 && b&(1<<29) != 0
}

// width is 16 where there is AVX-512: F, and BW for VPSHUFB.
func width() int {
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW {
		return maxLanes
	}
	return 2
}

// lean says that the fewest instructions are the fastest, not those that wait least for
// each other: on all of Intel's processors with AVX-512, two of its instructions start
// in a cycle (CPUID leaf 0: EBX, EDX, ECX).
func lean() bool {
	_, b, c, d := cpuid(0, 0)
	return b == 0x756e6547 && d == 0x49656e69 && c == 0x6c65746e // "Genu", "ineI", "ntel"
}
