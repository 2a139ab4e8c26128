package verifier

import (
	"testing"
	"time"
)

// An address that is refused again and again must not use up what all addresses
// together may try.
func TestLimiterLetsNobodyShutOthersOut(t *testing.T) {
	l := newLimiter(5, time.Hour)
	for i := range 1000 {
		if allowed := l.allow("192.0.2.1"); allowed != (i < 5) {
			t.Fatalf("attempt %d: %t", i+1, allowed)
		}
	}
	if !l.allow("192.0.2.2") {
		t.Error("another address is refused")
	}
}

func TestLimiterBoundsAllTogether(t *testing.T) {
	l := newLimiter(5, time.Hour)
	allowed := 0
	for i := range 100 {
		if l.allow(string(rune('a' + i))) {
			allowed++
		}
	}
	if allowed != 50 {
		t.Errorf("%d addresses were let try, want 50", allowed)
	}
}
