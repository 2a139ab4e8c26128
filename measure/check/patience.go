package check

import (
	"context"
	"sync"
	"time"
)

// patience is how long a scan waits, in all, for the same thing. Checks that wait
// at the same time use it up once. Nil is none.
type patience struct {
	mu      sync.Mutex
	left    time.Duration
	waiting int       // checks
	since   time.Time // this was noted last
}

// over reports whether there is none left.
func (p *patience) over() bool { return p == nil || p.note(0) <= 0 }

// spent is how much of what a scan has was waited.
func (p *patience) spent() time.Duration { return lockPatience - p.note(0) }

// wait waits for so long, or until the context ends.
func (p *patience) wait(ctx context.Context, d time.Duration) error {
	if p != nil {
		p.note(1)
		defer p.note(-1)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// note counts the time since it was called last if anybody waited then, and that
// more wait now, or fewer. It returns what is left.
func (p *patience) note(more int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.waiting > 0 {
		p.left -= now.Sub(p.since)
	}
	p.since, p.waiting = now, p.waiting+more
	return p.left
}
