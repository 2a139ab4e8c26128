package kernel

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSlidSymbols: a table that was moved finds by name what the first does, each
// at its own addresses, and what is no address of the kernel stays.
func TestSlidSymbols(t *testing.T) {
	const base, slide = 0xffff_ffff_8100_0000, 0x20_0000
	s := NewSymbols([]Symbol{
		{Addr: base + 0x20, Kind: 'd', Name: "__SCK__b"}, {Addr: base, Kind: 'T', Name: "_text"},
		{Addr: 0x1000, Kind: 'A', Name: "__SCK__per_cpu"}, {Addr: base + 0x10, Kind: 'D', Name: "__SCK__a"},
	})
	for _, tt := range []struct {
		symbols *Symbols
		slide   uint64
	}{{s, 0}, {s.Slide(slide), slide}, {s, 0}} {
		want := []Symbol{{Addr: 0x1000, Kind: 'A', Name: "__SCK__per_cpu"}, {Addr: base + 0x10 + tt.slide, Kind: 'D', Name: "__SCK__a"},
			{Addr: base + 0x20 + tt.slide, Kind: 'd', Name: "__SCK__b"}}
		if diff := cmp.Diff(want, tt.symbols.WithPrefix("__SCK__")); diff != "" {
			t.Errorf("slide %#x (-want +got):\n%s", tt.slide, diff)
		}
		if at, ok := tt.symbols.Address("_text"); !ok || at != base+tt.slide {
			t.Errorf("slide %#x: _text at %#x", tt.slide, at)
		}
		if none := tt.symbols.WithPrefix("___"); len(none) != 0 {
			t.Errorf("symbols of no such prefix: %v", none)
		}
	}
	// One that wraps around changes their order.
	wrapped := s.Slide(^uint64(0) - base)
	if at, ok := wrapped.Address("_text"); !ok || at != ^uint64(0) {
		t.Errorf("_text at %#x", at)
	}
	if at, ok := wrapped.Address("__SCK__a"); !ok || at != 0xf {
		t.Errorf("__SCK__a at %#x", at)
	}
}
