package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// watchRetry is the pause before a watch that ended is begun again, such as
// after the machine's QEMU ended.
const watchRetry = 5 * time.Second

// eventBatch is how many events at most share one fsync.
const eventBatch = 256

// watch reports the target's file operations until ctx ends.
func (t *target) watch(ctx context.Context) {
	if !t.config.Watch.Enabled {
		return
	}
	for ctx.Err() == nil {
		err := t.watchOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		t.agent.log.Warn("watch ended", "target", t.config.Name, "error", err, "next_try", watchRetry)
		t.agent.status(remote.Status{State: remote.WatchInterrupted, Target: t.config.Name, Detail: shortened(err)})
		if errors.Is(err, trap.ErrNoPlugin) || errors.Is(err, trap.ErrNotSupported) || errors.Is(err, filewatch.ErrRules) {
			return // nothing that waiting would change
		}
		sleep(ctx, watchRetry)
	}
}

// watchOnce watches until the machine ends. Each call is a stream of its own:
// what happened between two was not seen, and the verifier must know.
func (t *target) watchOnce(ctx context.Context) error {
	rules, err := loadRules(t.config.Watch.Rules)
	if err != nil {
		return err
	}
	stream := newStream()
	w := &vm.Watcher{
		Target:   t.config.Name,
		QMP:      t.config.QMP,
		Monitor:  &t.monitor,
		Profiles: &t.agent.profiles,
		Rules:    rules,
		Images:   t.config.Files.Disks,
		Backing:  t.config.Files.Backing,
		Alert:    t.watchAlert,
		Bound: func() {
			t.agent.log.Info("watching", "target", t.config.Name, "stream", stream)
			t.agent.status(remote.Status{State: remote.WatchStarted, Target: t.config.Name, Detail: stream})
		},
	}
	events := make(chan remote.Event, eventBatch)
	written := make(chan error, 1)
	go func() { written <- t.spoolEvents(events) }()
	send := func(e *filewatch.Event, found *baseline.Record) error {
		record := remote.Event{Target: t.config.Name, Stream: stream, Sequence: e.Sequence, Follows: e.Follows}
		var err error
		if record.Event, err = json.Marshal(e); err != nil {
			return err
		}
		if found != nil {
			record.Object, err = json.Marshal(found)
		}
		events <- record
		return err
	}
	w.Settled = send
	err = guard(func() error {
		return w.Events(ctx, func(e *filewatch.Event) error { return send(e, nil) })
	})
	close(events)
	return errors.Join(err, <-written)
}

// spoolEvents stores what arrives, many with one fsync when they come fast. A
// spool that cannot take them loses them visibly: their numbers never come.
func (t *target) spoolEvents(events <-chan remote.Event) error {
	var failed error
	for e := range events {
		batch := []remote.Event{e}
		for more := true; more && len(batch) < eventBatch; {
			select {
			case next, ok := <-events:
				if more = ok; ok {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		if err := put(t.agent.outbox, remote.KindEvent, batch...); err != nil {
			t.agent.log.Error("events lost", "target", t.config.Name, "events", len(batch), "error", err)
			failed = err
		}
	}
	return failed
}

// watchAlert passes on what the watch says about itself.
func (t *target) watchAlert(alert filewatch.Alert) {
	t.agent.log.Warn("watch", "target", t.config.Name, "alert", alert.Alert, "lost", alert.Lost, "reason", alert.Reason)
	state := remote.WatchNotice
	if alert.Alert == filewatch.AlertRestart {
		state = remote.TargetRebooting
	}
	t.agent.status(remote.Status{State: state, Target: t.config.Name, Detail: alert.Alert + ": " + alert.Reason})
}

// loadRules reads a rules file; an empty path is no rules.
func loadRules(path string) (*filewatch.Rules, error) {
	if path == "" {
		return nil, nil
	}
	data, err := bin.ReadFile(path, maxConfig)
	if err != nil {
		return nil, err
	}
	rules, err := filewatch.ParseRules(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rules, nil
}

// newStream names one uninterrupted watch.
func newStream() string {
	var id [8]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}
