package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrNoDeviceState means that QEMU does not show the state of its devices, or
// shows it in a way that is not understood.
var ErrNoDeviceState = errors.New("the registers of system calls are in QEMU's device state only")

// SystemCalls reads the registers of system calls of all virtual CPUs, for which
// QEMU has no command. What has them is the state that a migration would send;
// "xen-save-devices-state" writes it without RAM, on any QEMU, and stops the
// machine for that alone. It goes to memory of this process: no file holds it,
// and it is gone when this returns.
//
// The sections of that stream do not describe themselves. They are believed if
// all that QEMU's monitor shows too is the same in them: first, while the
// machine runs, what the kernel sets once, then everything, at one stop. If
// anything differs there is no answer.
//
// After [VM.Remember] the machine is stopped for that the first time only: then
// they are read where QEMU keeps them, as long as that is the same process with the
// same CPUs, and what the monitor shows of a CPU is beside them.
//
// Of a machine that may run guests of its own everything is read at one stop, and
// so it is if the device state is not what the monitor shows: a CPU may have been in
// system management mode.
func (vm *VM) SystemCalls(ctx context.Context) ([]mem.SystemCalls, error) {
	shown, err := vm.outside(ctx)
	if err != nil {
		return nil, err
	}
	var earlier time.Duration
	if !virtualizing(shown) {
		if calls, err := vm.placed(ctx, shown); err == nil {
			vm.paused = 0 // for this
			return calls, nil
		}
		after := vm.stopping()
		state, err := vm.deviceState(ctx)
		after()
		if err != nil {
			return nil, err
		}
		if states, err := believed(state, shown, false); err == nil && !slices.ContainsFunc(states, cpuState.inGuest) {
			_ = vm.learn(ctx, state) // else the machine is stopped again for the next scan
			return callsOf(states), nil
		}
		earlier = vm.paused
	}
	all, err := vm.looks(ctx)
	vm.paused = max(vm.paused, earlier)
	if err != nil {
		return nil, err
	}
	out := make([]mem.SystemCalls, len(all))
	for i := range all {
		out[i] = all[i].calls
	}
	return out, nil
}

func callsOf(states []cpuState) (out []mem.SystemCalls) {
	for _, s := range states {
		out = append(out, s.calls)
	}
	return out
}

// believed returns the state of each CPU that the monitor shows, or an error.
func believed(state []byte, shown []mem.Registers, sameStop bool) ([]cpuState, error) {
	cpus, err := parseDeviceState(state)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDeviceState, err)
	}
	if len(cpus) != len(shown) {
		return nil, fmt.Errorf("%w: it has %d CPUs and the monitor %d", ErrNoDeviceState, len(cpus), len(shown))
	}
	var out []cpuState
	for i := range shown {
		s, ok := cpus[uint32(shown[i].CPU)]
		if !ok {
			return nil, fmt.Errorf("%w: it lacks CPU %d", ErrNoDeviceState, shown[i].CPU)
		}
		if name := s.differs(&shown[i], sameStop); name != "" {
			return nil, fmt.Errorf("%w: %s of CPU %d is not what the monitor shows", ErrNoDeviceState, name, shown[i].CPU)
		}
		out = append(out, s)
	}
	return out, nil
}

// deviceState has QEMU write the state of all devices into a file that only
// memory holds, and returns its bytes. A machine that stands still stays so.
func (vm *VM) deviceState(ctx context.Context) ([]byte, error) {
	if err := vm.savable(ctx); err != nil {
		return nil, err
	}
	file, err := memoryFile("device-state")
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	defer file.Close()
	// QEMU takes a descriptor that is open for what it is wanted for, no more.
	writable, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer writable.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := vm.client.ExecuteWithFile(ctx, "add-fd", map[string]any{"opaque": "plumbline"}, &set, writable); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDeviceState, err)
	}
	flush(vm.disks)
	events := vm.client.Subscribe()
	defer events.Close()
	arguments := map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "live": false}
	err = vm.client.Execute(ctx, "xen-save-devices-state", arguments, nil)
	vm.paused, _ = between(events) // none if it stood still before
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	if err = errors.Join(err, vm.client.Execute(done, "remove-fd", map[string]any{"fdset-id": set.ID}, nil)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDeviceState, err)
	}
	b, err := io.ReadAll(io.NewSectionReader(file, 0, maxState+1))
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("%w: over %d bytes", errDeviceState, maxState)
	}
	return b, err
}
