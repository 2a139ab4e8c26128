package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	// maxSought bounds the memory that is searched; 100 to 200 MiB are usual.
	maxSought = 1 << 30
	// maxMatches bounds the places looked at: as many as there are CPUs, usually.
	maxMatches = 2 * maxCPUs

	searchAgain = 5 * time.Minute
)

// learn looks for the registers that a device state has. That it finds none is no
// error: the machine is stopped for them the next time too.
func (vm *VM) learn(ctx context.Context, state []byte) error {
	return vm.search(ctx, func(process io.ReaderAt, ranges []mem.Extent) (err error) {
		cpus, err := parseDeviceState(state)
		if err != nil {
			return err
		}
		vm.places.cpus, err = findPlaces(process, ranges, cpus)
		return err
	})
}

// seek looks for the host state pages of CPUs that may run guests. All else that
// tells one CPU from another is now the target's and now its guest's, so that a
// search that takes longer than a stop may must go by these: where one of them is
// with all the rest beside it, settle sees at the next stop.
func (vm *VM) seek(ctx context.Context, all []seen) error {
	patterns := make(map[string]bool)
	for _, s := range all {
		if v := s.regs.Virtualization; v != nil && v.HostState != 0 {
			patterns[string(binary.LittleEndian.AppendUint64(nil, uint64(v.HostState)))] = true
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	return vm.search(ctx, func(process io.ReaderAt, ranges []mem.Extent) error {
		at, err := matches(process, ranges, patterns)
		for _, a := range at {
			vm.places.near = append(vm.places.near, a-hsaveAt)
		}
		return err
	})
}

// settle takes the places that seek found, if they are those of CPUs whose states
// were read at the stop that still lasts.
func (vm *VM) settle(states []cpuState) error {
	if vm.places == nil {
		return nil
	}
	vm.places.mu.Lock()
	defer vm.places.mu.Unlock()
	near := vm.places.near
	if len(near) == 0 || vm.places.cpus != nil {
		return nil
	}
	vm.places.near = nil
	process, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return err
	}
	defer process.Close()
	cpus := make(map[uint32]cpuState, len(states))
	for _, s := range states {
		cpus[uint32(s.regs.CPU)] = s
	}
	vm.places.cpus, err = placesAmong(process, near, cpus)
	return err
}

// search has by look in the memory that QEMU has for itself, unless places are
// known or were sought not long ago.
func (vm *VM) search(ctx context.Context, by func(process io.ReaderAt, ranges []mem.Extent) error) error {
	if vm.places == nil {
		return nil
	}
	of, err := vm.identity(ctx)
	if err != nil {
		return err
	}
	vm.places.mu.Lock()
	defer vm.places.mu.Unlock()
	if vm.places.of == of && (vm.places.cpus != nil || time.Now().Before(vm.places.again)) {
		return nil
	}
	vm.places.of, vm.places.cpus, vm.places.near, vm.places.again = of, nil, nil, time.Now().Add(searchAgain)
	process, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return err
	}
	defer process.Close()
	ranges, err := vm.ownMemory()
	if err != nil {
		return err
	}
	return by(process, ranges)
}

// findPlaces searches a process for the registers of CPUs. Each must be found
// once, all with the same layout.
func findPlaces(process io.ReaderAt, ranges []mem.Extent, cpus map[uint32]cpuState) ([]place, error) {
	patterns := make(map[string]bool)
	for _, c := range cpus {
		p := binary.LittleEndian.AppendUint64(nil, c.calls.LSTAR)
		p = binary.LittleEndian.AppendUint64(p, c.calls.CSTAR)
		patterns[string(binary.LittleEndian.AppendUint64(p, c.calls.FMASK))] = true
	}
	at, err := matches(process, ranges, patterns)
	if err != nil {
		return nil, err
	}
	for i := range at {
		at[i] -= lstarAt
	}
	return placesAmong(process, at, cpus)
}

// matches returns the addresses at which one of several patterns is, in order.
func matches(process io.ReaderAt, ranges []mem.Extent, patterns map[string]bool) (out []uint64, err error) {
	buffer := make([]byte, 1<<20)
	for _, r := range ranges {
		for at := uint64(r.Start); at < uint64(r.End()); {
			b := buffer[:min(uint64(len(buffer)), uint64(r.End())-at)]
			if n, err := process.ReadAt(b, int64(at)); err != nil {
				b = b[:n] // given back meanwhile
			}
			for pattern := range patterns {
				for i := range indexes(b, []byte(pattern)) {
					if len(out) == maxMatches {
						return nil, fmt.Errorf("%w: too much looks like it", errNoPlaces)
					}
					out = append(out, at+uint64(i))
				}
			}
			// The next piece begins so that nothing is cut in two.
			at += max(uint64(len(b)), mem.PageSize)
			if at < uint64(r.End()) {
				at -= callsSize
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// placesAmong returns the places of CPUs whose registers of system calls may be at
// some addresses. Each CPU must have one, all with the same layout.
func placesAmong(process io.ReaderAt, calls []uint64, cpus map[uint32]cpuState) ([]place, error) {
	found := make(map[uint32][]place)
	for _, at := range calls {
		for _, p := range placesAt(process, at, cpus) {
			found[uint32(p.cpu)] = append(found[uint32(p.cpu)], p)
		}
	}
	var out []place
	for n := range cpus {
		all := found[n]
		if len(all) != 1 {
			return nil, fmt.Errorf("%w: those of CPU %d are in %d places", errNoPlaces, n, len(all))
		}
		if len(out) > 0 && out[0].calls-out[0].tables != all[0].calls-all[0].tables {
			return nil, fmt.Errorf("%w: CPU %d has another layout", errNoPlaces, n)
		}
		out = append(out, all[0])
	}
	return out, nil
}

// placesAt returns the places that the registers of a CPU may be in, if those of
// system calls are at an address.
func placesAt(process io.ReaderAt, calls uint64, cpus map[uint32]cpuState) (out []place) {
	if calls < maxBetween {
		return nil
	}
	b, start := make([]byte, maxBetween+callsSize), calls-maxBetween
	if _, err := process.ReadAt(b, int64(start)); err != nil {
		return nil
	}
	for n, c := range cpus {
		if callsIn(b[maxBetween:], c.calls.CPU) != c.calls ||
			binary.LittleEndian.Uint64(b[maxBetween+hsaveAt:]) != uint64(c.hostState) {
			continue
		}
		base := binary.LittleEndian.AppendUint64(nil, uint64(c.regs.GDT.Base))
		for i := range indexes(b[:maxBetween], base) {
			if i+tablesSize <= maxBetween && tablesAre(b[i:], &c.regs) {
				out = append(out, place{cpu: int(n), tables: start + uint64(i), calls: calls})
			}
		}
	}
	return out
}

// indexes yields where a pattern begins at a multiple of 8.
func indexes(b, pattern []byte) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for at := 0; ; {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				return
			}
			if at += i; at%8 == 0 && !yield(at) {
				return
			}
			at++
		}
	}
}
