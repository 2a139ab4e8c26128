package verifier

import (
	"context"
	"sync"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// hub tells listeners in this process what was written. A listener that does
// not keep up is cut off: it asks the store anew, so nothing is lost, only late.
type hub struct {
	mu        sync.Mutex
	listeners map[chan store.Change]bool
	closed    bool
}

// until calls ready now and after each change that matters, until it says yes
// or fails, ctx ends or the verifier does; the last two are no error.
func (h *hub) until(ctx context.Context, matters func(store.Change) bool, ready func() (bool, error)) error {
	for {
		changed, done := h.listen()
		ok, err := ready()
		if ok || err != nil {
			done()
			return err
		}
		over := wait(ctx, changed, matters)
		done()
		if over && (ctx.Err() != nil || h.isClosed()) {
			return nil
		}
	}
}

// wait returns after a change that matters, or with over set when ctx or the
// channel ended first.
func wait(ctx context.Context, changed <-chan store.Change, matters func(store.Change) bool) (over bool) {
	for {
		select {
		case c, open := <-changed:
			if !open || matters(c) {
				return !open
			}
		case <-ctx.Done():
			return true
		}
	}
}

func (h *hub) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// backlog is how many changes a listener may be behind.
const backlog = 256

func newHub() *hub { return &hub{listeners: make(map[chan store.Change]bool)} }

// listen returns a channel of changes, closed when the listener was too slow
// or the verifier ends, and a function that ends listening.
func (h *hub) listen() (<-chan store.Change, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := make(chan store.Change, backlog)
	if h.closed {
		close(c)
		return c, func() {}
	}
	h.listeners[c] = true
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(c)
	}
}

func (h *hub) drop(c chan store.Change) {
	if h.listeners[c] {
		delete(h.listeners, c)
		close(c)
	}
}

func (h *hub) tell(change store.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.listeners {
		select {
		case c <- change:
		default:
			h.drop(c)
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.listeners {
		h.drop(c)
	}
}
