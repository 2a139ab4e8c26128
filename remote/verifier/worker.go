package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// maxBatch bounds the records a worker takes at once.
const maxBatch = 256

// retryPause is how long a worker rests after an error of the store.
const retryPause = time.Second

// sweepEvery is how often a worker looks without being woken: for records that
// another verifier took in, or that were left by an earlier process.
const sweepEvery = 5 * time.Second

// workFast handles remarks and file events, which must be quick.
func (v *Verifier) workFast(ctx context.Context) {
	v.repeat(ctx, v.fast, func(ctx context.Context) error {
		if err := v.takeRecords(ctx, remote.KindStatus, remote.KindEvent, remote.KindBaseline); err != nil {
			return err
		}
		return v.takeManifests(ctx)
	})
}

// workSlow handles what takes long to judge.
func (v *Verifier) workSlow(ctx context.Context) {
	v.repeat(ctx, v.slow, func(ctx context.Context) error {
		if err := v.takeRecords(ctx, remote.KindAttestation, remote.KindScan); err != nil {
			return err
		}
		return v.judgeWaiting(ctx)
	})
}

func (v *Verifier) repeat(ctx context.Context, wake poke, step func(context.Context) error) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		pause := time.Duration(0)
		if err := step(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("work on stored records", "error", err)
			pause = retryPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-sweep.C:
		}
	}
}

// takeRecords handles everything pending of the given kinds, in order.
func (v *Verifier) takeRecords(ctx context.Context, kinds ...remote.Kind) error {
	for {
		pending, err := v.store.Pending(ctx, maxBatch, kinds...)
		if err != nil || len(pending) == 0 {
			return err
		}
		for len(pending) > 0 {
			n, err := v.takeSome(ctx, pending)
			if err != nil {
				return err
			}
			pending = pending[n:]
		}
	}
}

// takeSome handles the first record, or the first run of file events of one
// target, and returns how many it handled.
func (v *Verifier) takeSome(ctx context.Context, pending []store.Record) (int, error) {
	if run := eventRun(pending); len(run) > 0 {
		return len(run), v.takeOrGiveUp(ctx, run, func(ctx context.Context, _ store.Record) error { return v.takeRun(ctx, run) })
	}
	return 1, v.takeOrGiveUp(ctx, pending[:1], v.takeOrRefuse)
}

// takeRun handles a run of file events. Those that arrived before their machine was retired
// take none with them that arrived since.
func (v *Verifier) takeRun(ctx context.Context, run []store.Record) error {
	err := v.takeEvents(ctx, run)
	later := slices.IndexFunc(run, func(r store.Record) bool { return !r.Received.Equal(run[0].Received) })
	if later < 0 || !errors.Is(err, errRetired) {
		return err
	}
	if err := v.dropRecords(ctx, run[:later], err); err != nil {
		return err
	}
	return v.takeRun(ctx, run[later:])
}

// maxTries bounds how often a record is tried that fails for a reason of ours.
// Each try comes a second or more after the one before.
const maxTries = 8

// takeOrGiveUp has records that belong together handled, and gives them up when
// that fails again and again: what one agent sent must not keep those of all
// others waiting. They are told of and marked as processed, which is itself
// written to the store: while that is what fails, they stay.
func (v *Verifier) takeOrGiveUp(ctx context.Context, run []store.Record, take func(context.Context, store.Record) error) error {
	err := v.guard(func() error { return take(ctx, run[0]) })
	if errors.Is(err, errRetired) {
		err = v.dropRecords(ctx, run, err)
	}
	if !v.tries.spent(run[0].ID, err) || ctx.Err() != nil {
		return err
	}
	for _, r := range run {
		bad := &badRecordError{fmt.Errorf("given up after %d tries: %w", maxTries, err)}
		if err := v.refuseRecord(ctx, r, bad); err != nil {
			return err
		}
	}
	v.tries.spent(run[0].ID, nil)
	return nil
}

// guard turns a panic into an error. What agents send is hostile, and stays in the
// store until it is handled: a panic is a bug, but one record must not end the
// verifier again and again.
func (v *Verifier) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			v.log.Error("internal error", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return f()
}

// tries counts in vain attempts by record.
type tries struct {
	mu    sync.Mutex
	count map[int64]int
}

// spent notes how an attempt ended and says whether it was the last.
func (t *tries) spent(id int64, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.count, id)
		return false
	}
	if errors.Is(err, store.ErrConflict) { // another writer was faster
		return false
	}
	if t.count == nil {
		t.count = make(map[int64]int)
	}
	t.count[id]++
	return t.count[id] >= maxTries
}

func (v *Verifier) takeOrRefuse(ctx context.Context, r store.Record) error {
	err := v.takeOne(ctx, r)
	if bad, ok := asBadRecord(err); ok {
		return v.refuseRecord(ctx, r, bad)
	}
	return err
}

func (v *Verifier) takeOne(ctx context.Context, r store.Record) error {
	switch r.Record.Kind {
	case remote.KindStatus:
		return takeBody(ctx, r, v.takeStatus)
	case remote.KindAttestation:
		return takeBody(ctx, r, v.takeAttestation)
	case remote.KindScan:
		return takeBody(ctx, r, v.takeScan)
	case remote.KindBaseline:
		return takeBody(ctx, r, v.takeBaseline)
	}
	return &badRecordError{fmt.Errorf("unknown kind %q", r.Record.Kind)}
}

// takeBody decodes a record's body for take.
func takeBody[T any](ctx context.Context, r store.Record, take func(context.Context, store.Record, *T) error) error {
	var body T
	if err := json.Unmarshal(r.Record.Body, &body); err != nil {
		return &badRecordError{fmt.Errorf("body of the %s record: %w", r.Record.Kind, err)}
	}
	return take(ctx, r, &body)
}

// badRecordError is a record that cannot be believed or understood. It is
// noted, marked as processed, and changes nothing else.
type badRecordError struct{ err error }

func (e *badRecordError) Error() string { return e.err.Error() }
func (e *badRecordError) Unwrap() error { return e.err }

func asBadRecord(err error) (*badRecordError, bool) {
	var bad *badRecordError
	ok := errors.As(err, &bad)
	return bad, ok
}

func (v *Verifier) refuseRecord(ctx context.Context, r store.Record, bad *badRecordError) error {
	agent, err := v.loadMachine(ctx, r.Stream.Agent)
	if err != nil {
		return err
	}
	if gone := inService(r, &agent.V); gone != nil {
		return v.dropRecords(ctx, []store.Record{r}, errors.Join(gone, bad.err))
	}
	v.metrics.refused.WithLabelValues(string(r.Record.Kind)).Inc()
	v.log.Warn("record refused", "agent", r.Stream.Agent, "seq", r.Record.Seq, "kind", r.Record.Kind, "error", bad.err)
	changes := v.moment(remote.Moment{Machine: r.Stream.Agent, Kind: string(r.Record.Kind), Severity: remote.SeverityAlert,
		Text: fmt.Sprintf("a record of the agent on %s was refused: %v", r.Stream.Agent, bad.err)})
	return v.apply(ctx, []int64{r.ID}, changes...)
}

// targetOf checks that the agent that sent r may report about name, and gives the agent's
// machine.
func (v *Verifier) targetOf(ctx context.Context, r store.Record, name string) (*doc[machine], error) {
	if err := remote.CheckName(name); err != nil {
		return nil, &badRecordError{fmt.Errorf("target: %w", err)}
	}
	agent, err := v.loadMachine(ctx, r.Stream.Agent)
	if err != nil {
		return nil, err
	}
	if err := inService(r, &agent.V); err != nil {
		return nil, err
	}
	target, err := v.loadMachine(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := inService(r, &target.V); err != nil {
		return nil, errors.Join(err, v.noteDropped(ctx, agent.Key, &target.V))
	}
	if err := mayReport(&agent.V, &target.V); err == nil {
		return agent, ofItself(r, &agent.V, &target.V)
	} else if agent.V.Role != remote.RoleHost || v.config.host(name).MeasuredBy != "" {
		return nil, &badRecordError{err}
	}
	return agent, v.adopt(ctx, agent.Key, name)
}

// ofItself refuses what a machine that is measured from outside says of its own memory and
// files: whoever took it over has its agent, and would call it clean. Of its boot its TPM
// tells.
func ofItself(r store.Record, agent, target *machine) error {
	if agent.Name != target.Name || target.MeasuredBy == "" || target.MeasuredBy == target.Name {
		return nil
	}
	switch r.Record.Kind {
	case remote.KindScan, remote.KindEvent, remote.KindBaseline:
	case remote.KindStatus:
		var s remote.Status
		if err := json.Unmarshal(r.Record.Body, &s); err != nil {
			return &badRecordError{err}
		}
		switch s.State {
		case remote.AgentStarted, remote.AgentRunning, remote.AgentStopping, remote.CommandFailed:
			return nil
		}
	default:
		return nil
	}
	return &badRecordError{fmt.Errorf("%s is measured by %s: what its own agent says of it does not count", target.Name, target.MeasuredBy)}
}

// adopt lets the first host that reports about a target nobody configured be
// the one that measures it, and says so. A machine with a TPM of its own, and one
// that the configuration has, is nobody's to adopt: measured_by says who reports
// about it. So is one whose host was retired.
func (v *Verifier) adopt(ctx context.Context, host, target string) error {
	return v.changeMachine(ctx, target, nil, func(m *machine) ([]store.Change, error) {
		free := m.MeasuredBy == "" || m.MeasuredBy == host
		if !free {
			before, err := v.loadMachine(ctx, m.MeasuredBy)
			if err != nil {
				return nil, err
			}
			free = before.V.Retired != nil
		}
		if !free || m.enrolled() || v.config.known(target) != "" || v.measuresOthers(target) {
			return nil, &badRecordError{fmt.Errorf("%s %w: %s", host, errNotItsTarget, target)}
		}
		m.MeasuredBy = host
		return v.moment(remote.Moment{Machine: target, Kind: "enrolment", Severity: remote.SeverityNotice,
			Text: fmt.Sprintf("%s reports about %s from now on: nobody else did", host, target)}), nil
	})
}
