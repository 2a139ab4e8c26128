package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
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
		if errors.Is(err, trap.ErrNoPlugin) {
			err = fmt.Errorf("%w: source = \"disk\" or \"auto\" in [target.watch] needs none", err)
		}
		t.agent.log.Warn("watch ended", "target", t.config.Name, "error", err, "next_try", watchRetry)
		t.agent.status(remote.Status{State: remote.WatchInterrupted, Target: t.config.Name, Detail: shortened(err)})
		if endless(err) {
			return
		}
		sleep(ctx, watchRetry)
	}
}

// endless says that waiting would change nothing.
func endless(err error) bool {
	for _, known := range []error{trap.ErrNoPlugin, trap.ErrNotSupported, disk.ErrTooOld, filewatch.ErrRules} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// watchOnce watches until the machine ends, or the watch. Each call is a stream of its own:
// what happened between two was not seen, and the verifier must know.
func (t *target) watchOnce(ctx context.Context) error {
	rules, err := loadRules(t.config.Watch.Rules)
	if err != nil {
		return err
	}
	source := t.source(ctx)
	s := &stream{target: t, name: newStream(), events: make(chan remote.Event, eventBatch)}
	written := make(chan error, 1)
	go func() { written <- t.spoolEvents(s.events) }()
	bound := func() {
		t.agent.log.Info("watching", "target", t.config.Name, "stream", s.name, "source", source)
		t.agent.status(remote.Status{State: remote.WatchStarted, Target: t.config.Name, Detail: s.name, Source: string(source)})
	}
	err = guard(func() error {
		if source == WatchDisk {
			return t.watchDisks(ctx, s, rules, bound)
		}
		return t.watchTrapped(ctx, s, rules, bound)
	})
	close(s.events)
	return errors.Join(err, <-written)
}

// watchTrapped watches by QEMU's trap plugin.
func (t *target) watchTrapped(ctx context.Context, s *stream, rules *filewatch.Rules, bound func()) error {
	w := &vm.Watcher{
		Target:   t.config.Name,
		QMP:      t.config.QMP,
		Monitor:  &t.monitor,
		Profiles: &t.agent.profiles,
		Rules:    rules,
		Images:   t.config.Files.Disks,
		Backing:  t.config.Files.Backing,
		Alert:    t.watchAlert,
		Bound:    bound,
		Settled: func(e *filewatch.Event, found *baseline.Record) error {
			if found == nil {
				return s.send(e, nil, "")
			}
			object, err := json.Marshal(found)
			if err != nil {
				return err
			}
			return s.send(e, object, "")
		},
	}
	return w.Events(ctx, func(e *filewatch.Event) error { return s.send(e, nil, "") })
}

// watchDisks watches by what the guest writes to its disks.
func (t *target) watchDisks(ctx context.Context, s *stream, rules *filewatch.Rules, bound func()) error {
	every, err := t.config.Watch.every()
	if err != nil {
		return err
	}
	w := &vm.DiskWatcher{
		Target:  t.config.Name,
		QMP:     t.config.QMP,
		Monitor: &t.monitor,
		Dir:     filepath.Join(t.agent.config.State, "watch"),
		Rules:   rules,
		Every:   every,
		Resets:  t.config.Watch.Resets,
		Alert:   t.watchAlert,
		Bound:   bound,
		Told:    s.sendSeen,
	}
	return w.Events(ctx, nil)
}

// stream is the events of one watch.
type stream struct {
	target *target
	name   string
	events chan remote.Event
}

// send has an event spooled, with the object that it is judged by or why there is none.
func (s *stream) send(e *filewatch.Event, object json.RawMessage, absent remote.Absence) error {
	event, err := json.Marshal(e)
	if err != nil {
		return err
	}
	s.events <- remote.Event{Target: s.target.config.Name, Stream: s.name, Sequence: e.Sequence, Follows: e.Follows,
		Event: event, Object: object, Absent: absent}
	return nil
}

// maxSeen bounds, in bytes of JSON, the object that goes with an event of the disk path.
// How many names and attributes it has is up to the guest, and a record that is too
// large for the verifier would take the others of its batch along.
const maxSeen = 1 << 20

// sendSeen is send of an event of the disk path.
func (s *stream) sendSeen(e *filewatch.Event, seen vm.Sight) error {
	switch {
	case seen.Gone:
		return s.send(e, nil, remote.AbsentGone)
	case seen.Taken:
		return s.send(e, nil, remote.AbsentTaken)
	case seen.Object == nil:
		return s.send(e, nil, "")
	}
	object, err := json.Marshal(seen.Object)
	if err != nil {
		return err
	}
	if len(object) > maxSeen {
		object = nil
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: fmt.Sprintf("its names and attributes are more than the %d bytes that are sent", maxSeen)}
	}
	return s.send(e, object, "")
}

// spoolEvents stores what arrives, many with one fsync when they come fast. A
// spool that cannot take them loses them visibly: their numbers never come, and since
// nobody may come after them, it is told at once.
func (t *target) spoolEvents(events <-chan remote.Event) error {
	var failed error
	lost := loss{target: t}
	defer lost.tell()
	for {
		var batch []remote.Event
		select {
		case <-lost.due():
			lost.tell()
			continue
		case e, ok := <-events:
			if !ok {
				return failed
			}
			batch = append(batch, e)
		}
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
		if t.agent.outbox.takesEvents() {
			lost.tell() // before what follows it
		}
		if err := put(t.agent.outbox, remote.KindEvent, batch...); err != nil {
			t.agent.log.Error("events lost", "target", t.config.Name, "events", len(batch), "error", err)
			failed = err
			lost.add(batch[0].Sequence, batch[len(batch)-1].Sequence)
		}
	}
}

// lossEvery is how often it is told that events go on being lost: what tells it takes room
// that is left to scans.
const lossEvery = time.Minute

// loss is the events of a watch that were lost and of which the verifier was not told.
type loss struct {
	target      *target
	first, last uint64 // their numbers, 0 for none
	told        time.Time
}

func (l *loss) add(first, last uint64) {
	if l.first == 0 {
		l.first = first
	}
	l.last = last
}

// due is when the verifier is to be told: of the first ones at once.
func (l *loss) due() <-chan time.Time {
	if l.first == 0 {
		return nil
	}
	return time.After(time.Until(l.told.Add(lossEvery)))
}

// tell tells the verifier. What cannot be told is told later.
func (l *loss) tell() {
	if l.first == 0 {
		return
	}
	l.told = time.Now()
	err := l.target.agent.tell(remote.Status{State: remote.WatchNotice, Target: l.target.config.Name, First: l.first, Lost: l.last - l.first + 1,
		Detail: filewatch.AlertGap + ": the agent's spool did not take them"})
	if err != nil {
		l.target.agent.log.Error("lost events cannot be told", "target", l.target.config.Name, "error", err)
		return
	}
	l.first = 0
}

// watchAlert passes on what the watch says about itself.
func (t *target) watchAlert(alert filewatch.Alert) {
	t.agent.log.Warn("watch", "target", t.config.Name, "alert", alert.Alert, "lost", alert.Lost, "reason", alert.Reason)
	state := remote.WatchNotice
	switch alert.Alert {
	case filewatch.AlertRestart:
		state = remote.TargetRebooting
	case filewatch.AlertWatch:
		t.agent.status(remote.Status{State: remote.TargetRunning, Target: t.config.Name})
	}
	t.agent.status(remote.Status{State: state, Target: t.config.Name, Detail: alert.Alert + ": " + alert.Reason, First: alert.First, Lost: alert.Lost})
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
