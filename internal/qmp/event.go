package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// ErrOverrun: a subscription was not read for so long that events were lost;
// it has ended so that the loss cannot go unnoticed.
var ErrOverrun = errors.New("events lost: subscriber too slow")

// subscriptionDepth is how many unread events a subscription holds.
const subscriptionDepth = 1024

// Event is one asynchronous message of QEMU.
type Event struct {
	Name string          // "STOP", "RESUME", "RESET", "SHUTDOWN", ...
	Data json.RawMessage // nil when the event has none
	Time time.Time       // the time QEMU gave it
}

// Subscription delivers events from the moment it was made.
type Subscription struct {
	// C carries the events and is closed when the subscription ends.
	C <-chan Event

	client *Client
	send   chan Event
	err    error // set before send is closed
}

// Subscribe starts a subscription to all events; Close it when done.
func (c *Client) Subscribe() *Subscription {
	events := make(chan Event, subscriptionDepth)
	sub := &Subscription{C: events, client: c, send: events}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		sub.end(c.err)
		return sub
	}
	c.subs[sub] = struct{}{}
	return sub
}

// Wait returns the next event that has one of the names.
func (s *Subscription) Wait(ctx context.Context, names ...string) (Event, error) {
	for {
		select {
		case event, ok := <-s.C:
			if !ok {
				return Event{}, s.Err()
			}
			for _, name := range names {
				if event.Name == name {
					return event, nil
				}
			}
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Err says why C was closed: [ErrOverrun], [ErrClosed], or nil after Close.
// It is meant to be called once C is closed.
func (s *Subscription) Err() error {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.err
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if _, live := s.client.subs[s]; live {
		delete(s.client.subs, s)
		s.end(nil)
	}
}

// deliver hands event over and says whether the subscription goes on. The
// client's lock is held.
func (s *Subscription) deliver(event Event) bool {
	select {
	case s.send <- event:
		return true
	default:
		s.end(ErrOverrun)
		return false
	}
}

// end closes C. The client's lock is held, or nobody else knows s yet.
func (s *Subscription) end(err error) {
	s.err = err
	close(s.send)
}
