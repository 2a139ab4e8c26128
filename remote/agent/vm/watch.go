package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// Watcher watches one virtual machine. It implements filewatch.Source.
type Watcher struct {
	// Target names the machine in the events.
	Target string
	// QMP is the machine's monitor socket. It is held only while the kernel's
	// profile is read.
	QMP string
	// Monitor, when not nil, is held while the monitor is: QEMU serves one
	// client at a time.
	Monitor sync.Locker
	// Profiles keeps what profiles have in common from boot to boot. Nil keeps
	// nothing.
	Profiles *kernel.Cache
	// Rules select and grade the events. Nil takes every one, at level verify.
	Rules *filewatch.Rules
	// Enforce refuses, in the guest, operations on paths whose rule has the
	// level protect. Without it they are reported like those of verify. See
	// docs/watch.md for what refusing is worth.
	Enforce bool
	// Alert is told of losses and interruptions. Nil drops them.
	Alert func(filewatch.Alert)
	// Images are the machine's disks as image files; empty: those that QEMU has
	// open, where they are raw. Changed objects at level verify and above are
	// read from them once they are there.
	Images []string
	// Backing are the directories in which images below Images may lie.
	Backing []string
	// Index is a baseline to judge events by. Nil judges nothing.
	Index *baseline.Index
	// Settled, when not nil, gets the events that follow from others, with the
	// object as it is on disk, in place of emit. The record is nil when the
	// object could not be read or is gone.
	Settled func(*filewatch.Event, *baseline.Record) error
	// Bound, when not nil, is called each time the hooks are in place.
	Bound func()
	// Next is the sequence number of the next event; 0 means 1. It is kept
	// current.
	Next uint64
}

var _ filewatch.Source = (*Watcher)(nil)

// Events implements filewatch.Source. Its error is trap.ErrNoPlugin when the
// machine was started without the plugin, wraps io.EOF when QEMU ended. Emit is
// called by one goroutine at a time.
func (w *Watcher) Events(ctx context.Context, emit func(*filewatch.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := w.newSettlement(cancel, emit)
	source := &trap.Source{
		Target: w.Target, Rules: w.Rules, Alert: w.Alert, Next: w.Next, Seen: s.seen,
		Connect: func(ctx context.Context) (trap.Feed, error) { return w.connect(ctx, s) },
	}
	if w.Index != nil {
		source.Baseline = names{w.Index}
	}
	s.source = source
	var settling sync.WaitGroup
	settling.Go(func() { s.settler.Run(ctx) })
	err := source.Events(ctx, emit)
	cancel(err)
	settling.Wait()
	w.Next = source.Next
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && cause != nil {
		return cause
	}
	return err
}

// connect binds the plugin to the kernel that runs now.
func (w *Watcher) connect(ctx context.Context, s *settlement) (trap.Feed, error) {
	control, err := qemutcg.FindControl(ctx, w.QMP)
	if err != nil {
		return nil, err
	}
	// Before the plugin is connected to: it waits for its client only so long, and
	// a busy host may take its time for the profile.
	layout, err := w.layout(ctx, s)
	if err != nil {
		return nil, err
	}
	conn, err := qemutcg.Dial(ctx, control)
	if err != nil {
		return nil, err
	}
	if err := conn.Bind(ctx, layout, linux.Options{}, w.enforced()); err != nil {
		conn.Close()
		return nil, err
	}
	for _, what := range layout.Missing {
		w.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: "this kernel has no hook for " + what})
	}
	s.attach(conn)
	if w.Bound != nil {
		w.Bound()
	}
	return conn, nil
}

// enforced are the rules to enforce, nil for none.
func (w *Watcher) enforced() *filewatch.Rules {
	if !w.Enforce {
		return nil
	}
	return w.Rules
}

// layout reads the running kernel's profile and, as long as the monitor is at
// hand, asks for the disks.
func (w *Watcher) layout(ctx context.Context, s *settlement) (*linux.Layout, error) {
	if w.Monitor != nil {
		w.Monitor.Lock()
		defer w.Monitor.Unlock()
	}
	if err := s.findImages(ctx); err != nil {
		return nil, err
	}
	machine, err := qemu.Open(ctx, w.QMP)
	if err != nil {
		return nil, err
	}
	defer machine.Close()
	regs, err := machine.Registers(ctx)
	if err != nil {
		return nil, err
	}
	profile, err := w.Profiles.Profile(machine.Memory(), regs)
	if err != nil {
		return nil, fmt.Errorf("read the profile of the guest's kernel: %w", err)
	}
	return linux.NewLayout(profile.Symbols, linux.BTF(profile.Types.Spec))
}

func (w *Watcher) alert(a filewatch.Alert) {
	if w.Alert != nil {
		w.Alert(a.Stamped(w.Target))
	}
}
