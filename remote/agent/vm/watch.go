package vm

import (
	"context"
	"fmt"
	"sync"

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
	// Protect are regular expressions on guest paths: operations that change a
	// match are refused. See docs/watch.md for what that is worth.
	Protect []string
	// Alert is told of losses and interruptions. Nil drops them.
	Alert func(trap.Alert)
	// Bound, when not nil, is called each time the hooks are in place.
	Bound func()
	// Next is the sequence number of the next event; 0 means 1. It is kept
	// current.
	Next uint64
}

var _ filewatch.Source = (*Watcher)(nil)

// Events implements filewatch.Source. Its error is trap.ErrNoPlugin when the
// machine was started without the plugin, wraps io.EOF when QEMU ended.
func (w *Watcher) Events(ctx context.Context, emit func(*filewatch.Event) error) error {
	source := &trap.Source{Target: w.Target, Connect: w.connect, Rules: w.Rules, Alert: w.Alert, Next: w.Next}
	defer func() { w.Next = source.Next }()
	return source.Events(ctx, emit)
}

// connect binds the plugin to the kernel that runs now.
func (w *Watcher) connect(ctx context.Context) (trap.Feed, error) {
	conn, err := qemutcg.Open(ctx, w.QMP)
	if err != nil {
		return nil, err
	}
	layout, err := w.layout(ctx)
	if err == nil {
		err = conn.Bind(ctx, layout, linux.Options{}, w.Protect)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	for _, what := range layout.Missing {
		w.alert(trap.Alert{Alert: trap.AlertBlind, Reason: "this kernel has no hook for " + what})
	}
	if w.Bound != nil {
		w.Bound()
	}
	return conn, nil
}

// layout reads the running kernel's profile.
func (w *Watcher) layout(ctx context.Context) (*linux.Layout, error) {
	if w.Monitor != nil {
		w.Monitor.Lock()
		defer w.Monitor.Unlock()
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

func (w *Watcher) alert(a trap.Alert) {
	if w.Alert != nil {
		w.Alert(trap.Stamp(a, w.Target))
	}
}
