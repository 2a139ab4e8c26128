package twinsha

//go:noescape
func blocks2(a, b *state, pa, pb *byte, n int)

func cpuid(leaf, sub uint32) (a, b, c, d uint32)

// Available says whether this processor has what [Twin] needs: the SHA
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
