package pagehash

import "golang.org/x/sys/cpu"

// implementations are those that this processor can run.
func implementations() map[string]func(digests, data []byte) {
	all := map[string]func(digests, data []byte){"chosen": Sum, "each": sumEach}
	if cpu.X86.HasAVX2 {
		all["AVX2"] = func(digests, data []byte) { sumWith(8, digests, data) }
	}
	if cpu.X86.HasAVX512F {
		all["AVX512"] = func(digests, data []byte) { sumWith(16, digests, data) }
	}
	return all
}
