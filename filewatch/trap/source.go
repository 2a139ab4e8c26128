package trap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrReset is returned by a feed whose guest was reset: another kernel will
// run, at other addresses.
var ErrReset = errors.New("the machine was reset")

// Feed is a bound mechanism that gives records in order. A jump in their
// sequence numbers is a loss. A record of an unknown operation is none: it says
// that whatever up to its number has not come is lost.
type Feed interface {
	// Records calls emit for each record until ctx ends, emit fails or the feed
	// does. It returns ErrReset when the guest was reset.
	Records(ctx context.Context, emit func(*Record) error) error
	Close() error
}

// Baseline answers what a source asks of a baseline.
type Baseline interface {
	// Names are the paths an object had when the baseline was taken, nil for
	// one that it does not hold.
	Names(id filewatch.ID) []string
}

// Source turns the records of a feed into events. It implements
// filewatch.Source.
type Source struct {
	// Target names the machine in the events.
	Target string
	// Connect binds a mechanism to the kernel that runs now. It is called at
	// the start, and again, every RetryEvery until it succeeds, after a reset.
	Connect func(ctx context.Context) (Feed, error)
	// Rules select and grade the events. Nil takes every one, at level verify.
	Rules *filewatch.Rules
	// Baseline, when not nil, gives an object's names of record, so that a rule
	// for its old place holds wherever it was moved or mounted.
	Baseline Baseline
	// Alert is told of losses and interruptions. Nil drops them: the gap in the
	// sequence numbers remains.
	Alert func(filewatch.Alert)
	// Seen, when not nil, is called with each event and its record before the
	// event is emitted.
	Seen func(*filewatch.Event, *Record)
	// Next is the sequence number of the next event; 0 means 1. It is kept
	// current between calls of Events.
	Next uint64
	// RetryEvery is the pause between attempts after a reset; 0 means a second.
	RetryEvery time.Duration

	mu sync.Mutex // numbers and emits events one at a time
}

var _ filewatch.Source = (*Source)(nil)

// Events implements filewatch.Source.
func (s *Source) Events(ctx context.Context, emit func(*filewatch.Event) error) error {
	if s.Next == 0 {
		s.Next = 1
	}
	feed, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	for {
		err := s.follow(ctx, feed, emit)
		feed.Close()
		if !errors.Is(err, ErrReset) {
			return err
		}
		s.lose(filewatch.AlertRestart, 1, "the machine was reset: operations are not seen until its new kernel is bound")
		if feed, err = s.reconnect(ctx); err != nil {
			return err
		}
		s.alert(filewatch.Alert{Alert: filewatch.AlertWatch, Reason: "the new kernel is bound"})
	}
}

// reconnect waits for the guest's next kernel: it may take minutes to boot.
func (s *Source) reconnect(ctx context.Context) (Feed, error) {
	every := s.RetryEvery
	if every == 0 {
		every = time.Second
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(every):
		}
		feed, err := s.Connect(ctx)
		if err == nil || errors.Is(err, ErrNoPlugin) || errors.Is(err, ErrNotSupported) {
			return feed, err
		}
	}
}

// follow reads one feed to its end.
func (s *Source) follow(ctx context.Context, feed Feed, emit func(*filewatch.Event) error) error {
	next := uint64(1)
	return feed.Records(ctx, func(r *Record) error {
		arrived := uint64(1)
		if r.Op == filewatch.OpUnknown {
			arrived = 0
		}
		if after := r.Sequence + 1; after > next+arrived {
			lost := after - next - arrived
			s.lose(filewatch.AlertGap, lost, fmt.Sprintf("%d operations came faster than they were read", lost))
		}
		next = max(next, r.Sequence+1)
		if arrived == 0 {
			return nil
		}
		e := s.event(r)
		if e == nil {
			return nil
		}
		return s.Number(e, func(e *filewatch.Event) error {
			if s.Seen != nil {
				s.Seen(e, r)
			}
			return emit(e)
		})
	})
}

// Number gives an event the next sequence number and emits it. It is for events
// that follow from those of Events, and may be called while that runs.
func (s *Source) Number(e *filewatch.Event, emit func(*filewatch.Event) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.Sequence = s.Next
	s.Next++
	return emit(e)
}

// lose skips sequence numbers, so that the loss shows in the events too.
func (s *Source) lose(kind string, n uint64, reason string) {
	s.mu.Lock()
	first := s.Next
	s.Next += n
	s.mu.Unlock()
	s.alert(filewatch.Alert{Alert: kind, First: first, Lost: n, Reason: reason})
}

func (s *Source) alert(a filewatch.Alert) {
	if s.Alert != nil {
		s.Alert(a.Stamped(s.Target))
	}
}
