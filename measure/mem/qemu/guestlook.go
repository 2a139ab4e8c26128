package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// lookPlaced is lookOnce where it is known where QEMU has the state of its CPUs. The
// machine stands still for one answer of the monitor and a few reads of memory: what
// they mean is made out when it runs again, and that it is the same process with the
// same CPUs is asked before and after. It is [errNoPlaces] if the places are not known,
// or do not have what the monitor shows.
func (vm *VM) lookPlaced(ctx context.Context, kvm bool) (all []seen, running bool, err error) {
	places, err := vm.openPlaces(ctx)
	if err != nil {
		vm.paused = 0
		return nil, false, errors.Join(errNoPlaces, err)
	}
	defer places.process.Close()
	text, pages, running, err := vm.readStopped(ctx, places, kvm)
	if err != nil {
		return nil, running, err
	}
	shown, err := ParseRegisters(text)
	if err != nil {
		return nil, running, err
	}
	if of, err := vm.identity(ctx); err != nil || of != places.of {
		return nil, running, errors.Join(errNoPlaces, err)
	}
	states, err := places.states(shown)
	if err == nil {
		err = sameStops(states, shown)
	}
	if err != nil {
		return nil, running, err
	}
	for i := range shown {
		all = append(all, own(&shown[i], &states[i], kvm, pages.read))
	}
	return all, running, nil
}

// readStopped reads, at one stop, what the monitor shows, the places, and the host
// state pages of CPUs that run guests.
func (vm *VM) readStopped(ctx context.Context, places *openedPlaces, kvm bool) (text string, pages keptPages, running bool, err error) {
	defer vm.stopping()()
	var showing *qmp.Pending
	resume, running, err := vm.stop(ctx, func() {
		showing = vm.client.Begin("human-monitor-command", map[string]string{"command-line": showRegisters})
	})
	if err != nil {
		return "", nil, running, err
	}
	defer func() { err = errors.Join(err, resume()) }()
	if err := showing.Wait(ctx, &text); err != nil {
		return "", nil, running, fmt.Errorf("read registers: %w", err)
	}
	if err := places.read(places.process); err != nil {
		return "", nil, running, errors.Join(errNoPlaces, err)
	}
	pages = make(keptPages)
	for i, p := range places.cpus {
		if s := p.state(places.raw[i]); s.hflags&hfGuest != 0 && !kvm {
			page := make([]byte, mem.PageSize)
			at := s.hostState &^ (mem.PageSize - 1)
			pages[at] = keptPage{page, vm.ram.ReadPhys(page, at)}
		}
	}
	return strings.ReplaceAll(text, "\r\n", "\n"), pages, running, nil
}

// keptPages are pages as they were at a stop.
type keptPages map[mem.Phys]keptPage

type keptPage struct {
	bytes []byte
	err   error // they could not be read
}

func (k keptPages) read(p []byte, at mem.Phys) error {
	page, ok := k[at]
	if !ok {
		return fmt.Errorf("it was not read at the stop: %w", mem.ErrNotMapped)
	}
	copy(p, page.bytes)
	return page.err
}
