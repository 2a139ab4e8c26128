package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Pause stops the machine and returns what lets it run again. Resume works
// after ctx has ended, and reconnects if the monitor went away. A machine that
// was not running is left as it is.
func (vm *VM) Pause(ctx context.Context) (resume func() error, err error) {
	resume, _, err = vm.stop(ctx, func() {})
	return resume, err
}

// stop is Pause, and tells whether the machine was running. The commands that then
// begins are the next that QEMU carries out: nobody's answer is waited for in between.
func (vm *VM) stop(ctx context.Context, then func()) (resume func() error, running bool, err error) {
	var status struct {
		Running bool `json:"running"`
	}
	if err := vm.client.Execute(ctx, "query-status", nil, &status); err != nil {
		return nil, false, err
	}
	vm.paused = 0
	if !status.Running {
		then()
		return func() error { return nil }, false, nil
	}
	flush(vm.disks)
	events := vm.client.Subscribe()
	asked := time.Now()
	resume = func() error {
		defer events.Close()
		err := vm.resume(ctx)
		vm.paused = time.Since(asked)
		if told, ok := between(events); ok {
			vm.paused = min(vm.paused, told)
		}
		return err
	}
	stop := vm.client.Begin("stop", nil)
	then()
	if err := stop.Wait(ctx, nil); err != nil {
		// The command may have been carried out although its answer is lost.
		return nil, true, errors.Join(err, resume())
	}
	return resume, true, nil
}

// AtStops has f called before each stop that [VM.Registers] and [VM.SystemCalls] make by
// themselves, and what f returns after it. Nil: nothing is called.
func (vm *VM) AtStops(f func() (after func())) { vm.atStop = f }

// stopping calls what is to be called before a stop, and returns what is after it.
func (vm *VM) stopping() (after func()) {
	if vm.atStop == nil {
		return func() {}
	}
	return vm.atStop()
}

// PausedFor is how long the last pause lasted by the times of QEMU's own events.
// The virtual CPUs stand still for a little longer: before STOP and after RESUME
// QEMU takes down and sets up the notifiers of its devices, some tenths of a
// millisecond for each. After [VM.Registers] and [VM.SystemCalls] it is the longest of
// the stops that took, none being 0.
func (vm *VM) PausedFor() time.Duration { return vm.paused }

// between returns the time from STOP to RESUME as their events give it, which
// come before the answers of the commands, and whether there were both.
func between(events *qmp.Subscription) (time.Duration, bool) {
	var stopped time.Time
	for {
		select {
		case event, open := <-events.C:
			switch {
			case !open:
				return 0, false
			case event.Name == "STOP":
				stopped = event.Time
			case event.Name == "RESUME" && !stopped.IsZero():
				return max(0, event.Time.Sub(stopped)), true
			}
		default:
			return 0, false
		}
	}
}

// resumeTimeout bounds how long resuming may take, reconnection included.
const resumeTimeout = 10 * time.Second

func (vm *VM) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	err := vm.client.Execute(ctx, "cont", nil, nil)
	if err == nil {
		return nil
	}
	client, dialErr := qmp.Dial(ctx, vm.socket)
	if dialErr != nil {
		return fmt.Errorf("resume: %w", errors.Join(err, dialErr))
	}
	defer client.Close()
	return client.Execute(ctx, "cont", nil, nil)
}
