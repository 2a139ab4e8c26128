package kernel

import (
	"errors"
	"testing"
)

// TestLivepatchSymbol resolves what a live patch refers to by name and position.
func TestLivepatchSymbol(t *testing.T) {
	l := &linker{env: &Expected{
		kernel: &Text{slide: 0x100, symbols: NewSymbols([]Symbol{
			{0x3000, 't', "twice"}, {0x1000, 't', "once"}, {0x2000, 't', "twice"}, {0x4000, 't', "once_more"}})},
		modules: []*Text{{Name: "kvm", symbols: NewSymbols([]Symbol{{0x9000, 't', "kvm_exit"}})}},
	}}
	for symbol, want := range map[string]uint64{
		".klp.sym.vmlinux.once,0":  0x1100,
		".klp.sym.vmlinux.once,1":  0x1100,
		".klp.sym.vmlinux.twice,1": 0x2100,
		".klp.sym.vmlinux.twice,2": 0x3100,
		".klp.sym.kvm.kvm_exit,0":  0x9000,
		".klp.sym.vmlinux.twice,0": 0, // which of them?
		".klp.sym.vmlinux.twice,3": 0,
		".klp.sym.vmlinux.none,0":  0,
		".klp.sym.gone.once,0":     0,
		".klp.sym.vmlinux.once":    0,
		".klp.sym.vmlinux.once,-1": 0,
		".klp.sym.vmlinux,0":       0,
		"once":                     0,
		"":                         0,
	} {
		got, err := l.livepatchSymbol(symbol)
		if got != want || (want == 0) != errors.Is(err, ErrRelocation) {
			t.Errorf("%s: %#x, %v, want %#x", symbol, got, err, want)
		}
	}
	for section, want := range map[string]bool{".klp.rela.vmlinux..text": true, ".klp.rela.kvm..text": true, ".klp.rela.gone..text": false} {
		if l.reaches(section) != want {
			t.Errorf("%s: reaches what is loaded: %v", section, !want)
		}
	}
}
