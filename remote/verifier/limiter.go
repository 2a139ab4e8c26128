package verifier

import (
	"sync"
	"time"
)

// limiter allows so many attempts per address in a span of time, and ten times
// as many from all addresses together.
type limiter struct {
	most int
	span time.Duration

	mu    sync.Mutex
	since time.Time
	count map[string]int
	all   int
}

func newLimiter(most int, span time.Duration) *limiter {
	return &limiter{most: most, span: span, count: make(map[string]int)}
}

func (l *limiter) allow(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) > l.span {
		l.since, l.count, l.all = now, make(map[string]int), 0
	}
	if l.count[address] >= l.most || l.all >= 10*l.most {
		return false // and not counted: one that is refused shuts nobody else out
	}
	l.count[address]++
	l.all++
	return true
}

// forgive takes an address's attempts back: it knew the password.
func (l *limiter) forgive(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all -= l.count[address]
	delete(l.count, address)
}
