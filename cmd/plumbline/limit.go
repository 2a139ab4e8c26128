package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// limiter keeps reading below a rate, so that a scan leaves the disk to others.
type limiter struct {
	perSecond float64
	mu        sync.Mutex
	free      time.Time // when the next byte may be read
}

// parseLimit reads a rate in bytes a second: "50M". "" is no limit.
func parseLimit(s string) (*limiter, error) {
	if s == "" {
		return nil, nil
	}
	digits := strings.TrimRight(s, "kKMG")
	shift, ok := map[string]uint{"": 0, "k": 10, "K": 10, "M": 20, "G": 30}[s[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || !ok || n == 0 {
		return nil, fail(exitArgument, fmt.Errorf("--limit %q: want bytes a second, like 50M", s))
	}
	return &limiter{perSecond: float64(n << shift)}, nil
}

// wait takes n bytes and returns when they may be read.
func (l *limiter) wait(ctx context.Context, n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	until := l.free
	l.free = l.free.Add(time.Duration(float64(n) / l.perSecond * float64(time.Second)))
	l.mu.Unlock()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(until.Sub(now)):
		return nil
	}
}
