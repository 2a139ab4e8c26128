package verifier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// scanEntry is a stored scan: what people see and what judging needs.
type scanEntry struct {
	remote.ScanEntry
	Nonce   remote.Nonce    `json:"nonce"`
	Expires time.Time       `json:"expires"` // of the nonce
	Body    remote.Digest   `json:"body,omitzero"`
	Need    []remote.Digest `json:"need,omitempty"`
	Command uint64          `json:"command,omitempty"` // that asked for Need
	Asked   int             `json:"asked,omitempty"`
	Host    string          `json:"host,omitempty"`    // tag of the host that took it
	Restart bool            `json:"restart,omitempty"` // the host's quote shows a boot that was not appraised
}

func (s scanEntry) stateWord() string { return string(s.State) }

// openScans are the scans that are in a state before their end: as many as run, not
// as many as there are.
func (v *Verifier) openScans(ctx context.Context, states ...remote.ScanState) ([]*doc[scanEntry], error) {
	var open []*doc[scanEntry]
	for _, state := range states {
		docs, err := list[scanEntry](ctx, v.store, store.Query{Collection: inScans, State: string(state)})
		if err != nil {
			return nil, err
		}
		open = append(open, docs...)
	}
	return open, nil
}

// firing keeps scans of one machine apart: its BMC takes one at a time.
type firing struct {
	mu    sync.Mutex
	turns map[string]chan struct{} // holds one token per machine
}

func (f *firing) turn(machine string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.turns == nil {
		f.turns = make(map[string]chan struct{})
	}
	if f.turns[machine] == nil {
		f.turns[machine] = make(chan struct{}, 1)
	}
	return f.turns[machine]
}

// errNoBMC is returned for a machine that cannot be scanned on demand.
var errNoBMC = errors.New("no BMC is configured")

// startScan stores a scan and fires it in the background: it goes on when the
// request that asked for it is over.
func (v *Verifier) startScan(ctx context.Context, name, cause string) (*remote.ScanEntry, error) {
	h := v.config.host(name)
	if h.BMC == nil || v.trigger == nil {
		return nil, fmt.Errorf("%s: %w", name, errNoBMC)
	}
	v.turnover.RLock()
	defer v.turnover.RUnlock()
	for _, needed := range []string{name, h.MeasuredBy} {
		if needed == "" {
			continue
		}
		m, err := v.loadMachine(ctx, needed)
		if err != nil {
			return nil, err
		}
		if m.V.Retired != nil {
			return nil, retiredError(needed)
		}
	}
	size := remote.NonceSize
	if h.BMC.Record {
		size = wire.SELNonceSize
	}
	// The nonce's life begins anew when it is fired.
	nonce, remember := v.issueNonce(name, forScan, size, 0)
	s := scanEntry{Nonce: nonce, ScanEntry: remote.ScanEntry{
		ID: nonce.String()[:16], Machine: name, Cause: cause, State: remote.ScanQueued, FiredAt: v.now(), MeasuredBy: h.MeasuredBy,
	}}
	if err := v.apply(ctx, nil, remember, create(inScans, s.ID, name, s.FiredAt, s)); err != nil {
		return nil, err
	}
	v.background.Go(func() { v.fire(v.life, s.ID) })
	return &s.ScanEntry, nil
}

// fire takes a queued scan through its BMC and waits until it is done or late.
func (v *Verifier) fire(ctx context.Context, id string) {
	s, err := load[scanEntry](ctx, v.store, inScans, id)
	if err != nil {
		v.log.Error("fire scan", "scan", id, "error", err)
		return
	}
	turn := v.firing.turn(s.V.Machine)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return
	}
	h := v.config.host(s.V.Machine)
	if err := v.markFired(ctx, id, v.now().Add(h.scanTimeout())); errors.Is(err, errRetired) {
		return
	} else if err != nil {
		v.log.Error("fire scan", "scan", id, "error", err)
		return
	}
	password, err := h.BMC.password()
	if err == nil {
		err = v.trigger(ctx, *h.BMC, password, s.V.Nonce)
	}
	if err != nil {
		v.closeScan(ctx, id, remote.ScanFailed, err.Error())
		return
	}
	v.awaitReport(ctx, id, h.scanTimeout())
}

// markFired starts the clock of the nonce, before it leaves the verifier.
func (v *Verifier) markFired(ctx context.Context, id string, expires time.Time) error {
	return again(func() error {
		s, err := load[scanEntry](ctx, v.store, inScans, id)
		if err != nil {
			return err
		}
		nonce, err := load[nonceEntry](ctx, v.store, inNonces, s.V.Nonce.String())
		if err != nil {
			return err
		}
		s.V.State, s.V.FiredAt, s.V.Expires, nonce.V.Expires = remote.ScanFired, v.now(), expires, expires
		m, err := v.loadMachine(ctx, s.V.Machine)
		if err != nil {
			return err
		}
		if m.V.Retired != nil || s.V.Done() {
			return errRetired // while it was queued
		}
		h := v.config.host(s.V.Machine)
		m.V.Scan.LastAttempt = v.now()
		m.V.Scan.Next = v.now().Add(h.scanEvery() + randomUpTo(h.scanJitter()))
		return v.apply(ctx, nil, s.change(), nonce.change(), m.change())
	})
}

// awaitReport returns when the scan is done; a report that is late makes the
// machine stale, not untrusted.
func (v *Verifier) awaitReport(ctx context.Context, id string, timeout time.Duration) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	state := remote.ScanFired
	err := v.hub.until(waiting, func(c store.Change) bool { return c.Collection == inScans && c.Key == id }, func() (bool, error) {
		s, err := load[scanEntry](ctx, v.store, inScans, id)
		if err != nil {
			return false, err
		}
		state = s.V.State
		return s.V.Done(), nil
	})
	switch {
	case ctx.Err() != nil || waiting.Err() == nil && err == nil:
	case err != nil:
		v.log.Error("wait for scan", "scan", id, "error", err)
	case state == remote.ScanWaiting:
		v.closeScan(ctx, id, remote.ScanNoReport, fmt.Sprintf("the pages to judge it did not come within %s", timeout))
	default:
		v.closeScan(ctx, id, remote.ScanNoReport, fmt.Sprintf("no report within %s", timeout))
	}
}

// closeScan ends a scan that brought nothing to judge.
func (v *Verifier) closeScan(ctx context.Context, id string, state remote.ScanState, why string) {
	err := again(func() error {
		s, err := load[scanEntry](ctx, v.store, inScans, id)
		if err != nil || s.V.Done() {
			return err
		}
		s.V.State, s.V.Error = state, why
		v.metrics.scans.WithLabelValues(string(state)).Inc()
		return v.changeMachine(ctx, s.V.Machine, nil, func(m *machine) ([]store.Change, error) {
			m.Scan.Error = why
			changes := []store.Change{s.change()}
			return append(changes, v.moment(remote.Moment{Machine: m.Name, Kind: "scan", Severity: remote.SeverityWarning,
				Text: fmt.Sprintf("a scan of %s brought no verdict: %s", m.Name, why), Ref: id})...), nil
		})
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, errRetired) {
		v.log.Error("close scan", "scan", id, "error", err)
	}
}

// closeOrphans ends scans that an earlier process fired and did not see done.
func (v *Verifier) closeOrphans(ctx context.Context) error {
	open, err := v.openScans(ctx, remote.ScanQueued, remote.ScanFired, remote.ScanWaiting)
	if err != nil {
		return err
	}
	for _, s := range open {
		late := v.now().After(s.V.Expires.Add(time.Minute))
		if late && v.now().Sub(s.V.FiredAt) > time.Minute+v.config.host(s.V.Machine).scanTimeout() {
			v.closeScan(ctx, s.Key, remote.ScanNoReport, "no report came before the verifier was restarted")
		}
	}
	return nil
}
