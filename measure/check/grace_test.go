package check

import "testing"

// What the target has to have done before code without an account is a finding.
func TestGrace(t *testing.T) {
	const under = 1 // a grace period is under way
	repeat := func(n int, seq uint64) (out []uint64) {
		for range n {
			out = append(out, seq)
		}
		return out
	}
	tests := map[string]struct {
		seen   []uint64
		passed bool
	}{
		"nothing yet":                {nil, false},
		"four periods":               {[]uint64{100<<2 | under, 102<<2 | under, 104<<2 | under}, true},
		"three":                      {[]uint64{100<<2 | under, 103<<2 | under}, false},
		"one that does not end":      {repeat(1000, 100<<2|under), false},
		"nobody waits for one":       {repeat(graceIdle, 100<<2), true},
		"nobody waited now and then": {[]uint64{100 << 2, 100<<2 | under, 101 << 2, 101<<2 | under}, false},
	}
	for name, tt := range tests {
		var g grace
		for _, seq := range tt.seen {
			g.add(seq)
		}
		if g.passed() != tt.passed {
			t.Errorf("%s: passed %v", name, g.passed())
		}
	}
}
