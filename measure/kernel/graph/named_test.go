package graph

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Of several symbols of one name the variable is meant: the global one, else the
// only one in writable data. Which of two it is, nobody can tell.
func TestNamedVariables(t *testing.T) {
	const constant, data, other, limit = 0x1000, 0x3000, 0x3100, 0x2000
	for name, tt := range map[string]struct {
		symbols []kernel.Symbol
		want    uint64
	}{
		"one":                      {[]kernel.Symbol{{Addr: data, Kind: 'd', Name: "formats"}}, data},
		"a constant beside it":     {[]kernel.Symbol{{Addr: constant, Kind: 'd', Name: "formats"}, {Addr: data, Kind: 'd', Name: "formats"}}, data},
		"a global one beside it":   {[]kernel.Symbol{{Addr: other, Kind: 'D', Name: "formats"}, {Addr: data, Kind: 'd', Name: "formats"}}, other},
		"two in data":              {[]kernel.Symbol{{Addr: other, Kind: 'd', Name: "formats"}, {Addr: data, Kind: 'b', Name: "formats"}}, 0},
		"two constants":            {[]kernel.Symbol{{Addr: constant, Kind: 'r', Name: "formats"}, {Addr: constant + 8, Kind: 'r', Name: "formats"}}, 0},
		"one constant, as of text": {[]kernel.Symbol{{Addr: constant, Kind: 'r', Name: "formats"}}, constant},
	} {
		symbols := kernel.NewSymbols(append(tt.symbols, kernel.Symbol{Addr: limit, Kind: 'D', Name: "_sdata"}))
		if got := named(symbols)["formats"]; got != tt.want {
			t.Errorf("%s: %#x, want %#x", name, got, tt.want)
		}
	}
}
