package agent

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/remote"
)

// worker carries out commands; captures last until they are released.
type worker struct {
	mu      sync.Mutex
	did     []uint64
	failed  []uint64
	begun   chan uint64
	release chan error
}

func newOrders() (*orders, *worker) {
	w := &worker{begun: make(chan uint64, 9), release: make(chan error)}
	return &orders{do: w.do, failed: func(c remote.Command, _ error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.failed = append(w.failed, c.ID)
	}}, w
}

func (w *worker) do(ctx context.Context, c remote.Command) (err error) {
	if c.Kind == remote.CommandRescan {
		w.begun <- c.ID
		select {
		case err = <-w.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.did = append(w.did, c.ID)
	return err
}

func rescan(id uint64) remote.Command {
	return remote.Command{ID: id, Kind: remote.CommandRescan, Target: "vm1"}
}

// A guest that loses events on purpose provokes rescans without end; the pages
// of a scan must be delivered meanwhile.
func TestProvokedRescansDoNotDelayPages(t *testing.T) {
	o, w := newOrders()
	pages := remote.Command{ID: 4, Kind: remote.CommandBodies}
	all := []remote.Command{rescan(1), rescan(2), rescan(3), pages}
	if n := o.take(t.Context(), all); n != 3 {
		t.Errorf("%d commands taken, want one capture running, one waiting and the pages", n)
	}
	first := <-w.begun
	w.mu.Lock()
	if diff := cmp.Diff([]uint64{4}, w.did); diff != "" {
		t.Errorf("carried out during a capture: %s", diff)
	}
	w.mu.Unlock()
	if after := o.acknowledged(); after != 0 {
		t.Errorf("%d is acknowledged while a capture before it is under way", after)
	}
	if n := o.take(t.Context(), all); n != 0 {
		t.Errorf("%d commands taken twice", n)
	}
	w.release <- nil
	second := <-w.begun
	if first == second {
		t.Errorf("capture %d ran twice", first)
	}
	w.release <- errors.New("the disk is gone")
	o.captures.Wait()
	if after := o.acknowledged(); after != 2 {
		t.Errorf("%d is acknowledged after two captures, one of which failed", after)
	}
	if len(w.failed) != 1 {
		t.Errorf("failed: %v", w.failed)
	}
	if n := o.take(t.Context(), all[2:]); n != 1 {
		t.Errorf("%d commands taken, want the third capture", n)
	}
	<-w.begun
	w.release <- nil
	o.captures.Wait()
	if after := o.acknowledged(); after != 4 || len(o.state) != 0 {
		t.Errorf("%d is acknowledged at the end, state %v", after, o.state)
	}
}

func TestCommandsWithoutCapturesRunInOrder(t *testing.T) {
	o, w := newOrders()
	for _, answer := range [][]remote.Command{
		{{ID: 8, Kind: remote.CommandBodies}, {ID: 7, Kind: remote.CommandAttest}},
		{{ID: 9, Kind: remote.CommandBodies}},
	} {
		o.take(t.Context(), answer)
	}
	if diff := cmp.Diff([]uint64{7, 8, 9}, w.did); diff != "" || o.acknowledged() != 9 {
		t.Errorf("%s, %d acknowledged", diff, o.acknowledged())
	}
}

// A capture that ends with the agent is neither acknowledged nor called failed:
// the verifier gives it to the next agent again.
func TestCaptureThatEndsWithTheAgentStaysOpen(t *testing.T) {
	o, w := newOrders()
	ctx, cancel := context.WithCancel(t.Context())
	o.take(ctx, []remote.Command{rescan(1), rescan(2)})
	<-w.begun
	cancel()
	o.captures.Wait()
	if after := o.acknowledged(); after != 0 || len(w.failed) > 0 {
		t.Errorf("%d acknowledged, failed %v", after, w.failed)
	}
}
