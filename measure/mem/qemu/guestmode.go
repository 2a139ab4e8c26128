package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A CPU on which the target runs a guest of its own has that guest's registers in
// QEMU, under both accelerators, and "info registers" does not tell. What tells is
// hflags, in the state of devices and, once that is known, where QEMU keeps the
// CPU's state (target/i386/cpu.h, HF_*_MASK and HF2_GIF_MASK; KVM's word for it is
// put there by kvm_get_nested_state, target/i386/kvm/kvm.c).
const (
	hfPE     = 1 << 7 // as in CR0
	hfLMA    = 1 << 14
	hfSVME   = 1 << 20
	hfGuest  = 1 << 21
	hfOSFXSR = 1 << 22 // as in CR4
	hf2GIF   = 1 << 0

	cr0PE     = 1 << 0
	cr4OSFXSR = 1 << 9
)

// Bounds of looking again at a CPU whose own state cannot be read: each look stops
// the machine.
const (
	guestLooks     = 8
	guestLookPause = 20 * time.Millisecond // at most, between two of them
)

// seen is what a look shows of a CPU: the target's own, not its guest's.
type seen struct {
	regs  mem.Registers
	calls mem.SystemCalls
}

// virtualizing reports whether a CPU may run guests.
func virtualizing(all []mem.Registers) bool {
	return slices.ContainsFunc(all, func(r mem.Registers) bool { return r.Virtualizing() })
}

// looks reads the CPUs of a machine that may run guests of its own. What belongs
// together is read at one stop. A CPU that runs a guest under TCG has what it goes
// back to in its host state page, as the processor wrote it there. Where it cannot
// be read, or the CPU is between the two (global interrupts are off around VMRUN,
// and registers that VMLOAD loads are already the guest's), it is looked at again.
func (vm *VM) looks(ctx context.Context) ([]seen, error) {
	var kvm struct {
		Enabled bool `json:"enabled"`
	}
	if err := vm.client.Execute(ctx, "query-kvm", nil, &kvm); err != nil {
		return nil, err
	}
	var out []seen
	var longest time.Duration
	for n := 1; ; n++ {
		now, running, err := vm.lookPlaced(ctx, kvm.Enabled)
		if errors.Is(err, errNoPlaces) {
			longest = max(longest, vm.paused)
			now, running, err = vm.lookOnce(ctx, kvm.Enabled)
		}
		longest = max(longest, vm.paused)
		vm.paused = longest
		if err != nil {
			return nil, err
		}
		if out == nil || len(out) != len(now) {
			out = now
		}
		for i := range out {
			if out[i].regs.CPU != now[i].regs.CPU || out[i].regs.Unread() != "" {
				out[i] = now[i]
			}
		}
		unread := slices.ContainsFunc(out, func(s seen) bool { return s.regs.Unread() != "" })
		if !unread || !running || n == guestLooks {
			tellLooks(out, n)
			_ = vm.seek(ctx, out) // else the machine is stopped for longer the next time too
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rand.N(guestLookPause)):
		}
	}
}

// tellLooks adds to why CPUs were not read how often that was.
func tellLooks(all []seen, n int) {
	for i := range all {
		if why := all[i].regs.Unread(); why != "" && n > 1 {
			told := *all[i].regs.Virtualization
			told.Unread = fmt.Sprintf("%s at each of %d looks", why, n)
			all[i].regs.Virtualization, all[i].calls.Virtualization = &told, &told
		}
	}
}

// lookOnce stops the machine and reads all CPUs. running says that it was not
// standing still already.
func (vm *VM) lookOnce(ctx context.Context, kvm bool) (all []seen, running bool, err error) {
	defer vm.stopping()()
	resume, running, err := vm.stop(ctx, func() {})
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, resume()) }()
	shown, err := vm.shown(ctx)
	if err != nil {
		return nil, running, err
	}
	states, stateErr := vm.statesNow(ctx, shown)
	for i := range shown {
		if stateErr != nil {
			s := seen{regs: shown[i]}
			switch {
			case shown[i].SMM:
				s = unread(shown[i].CPU, mem.Virtualization{Unread: inManagement})
			case shown[i].Virtualizing():
				s = unread(shown[i].CPU, mem.Virtualization{Unread: "whether it ran a guest of the target is not known: " + stateErr.Error()})
			}
			all = append(all, s)
			continue
		}
		all = append(all, own(&shown[i], &states[i], kvm, vm.ram.ReadPhys))
	}
	return all, running, nil
}

func unread(cpu int, v mem.Virtualization) seen {
	return seen{regs: mem.Registers{CPU: cpu, Virtualization: &v}, calls: mem.SystemCalls{CPU: cpu, Virtualization: &v}}
}

// own is what a CPU has of the target's own. Memory is read as it was when the CPU
// stood still.
func own(shown *mem.Registers, state *cpuState, kvm bool, read func(p []byte, at mem.Phys) error) seen {
	if shown.SMM {
		return unread(shown.CPU, mem.Virtualization{Unread: inManagement})
	}
	s := seen{regs: *shown, calls: state.calls}
	if !shown.Virtualizing() {
		return s
	}
	v := mem.Virtualization{Guest: state.hflags&hfGuest != 0, HostState: state.hostState}
	v.User = !v.Guest && shown.CPL == 3
	s.regs.Virtualization, s.calls.Virtualization = &v, &v
	svm := shown.EFER&mem.EFERSVME != 0
	switch {
	case v.Guest && (kvm || !svm):
		v.Unread = "it ran a guest of the target"
	case v.Guest:
		page := make([]byte, mem.PageSize)
		if err := read(page, v.HostState&^(mem.PageSize-1)); err != nil {
			v.Unread = fmt.Sprintf("it ran a guest of the target, and its own state at %v: %v", v.HostState, err)
			break
		}
		area := mem.ParseSaveArea(page)
		s.regs, s.calls = area.Registers, area.SystemCalls
		s.regs.CPU, s.calls.CPU = shown.CPU, shown.CPU
		s.regs.Virtualization, s.calls.Virtualization = &v, &v
		// VMRUN loads no breakpoint addresses; they are those that the CPU has.
		copy(s.regs.DR[:4], shown.DR[:4])
	case svm && state.hflags2&hf2GIF == 0:
		v.Unread = "it was entering or leaving a guest of the target"
	}
	if v.Unread != "" {
		return unread(shown.CPU, v)
	}
	return s
}

// statesNow reads the states of all CPUs that the monitor shows of a machine that
// stands still: where they are known to be, else from its device state.
func (vm *VM) statesNow(ctx context.Context, shown []mem.Registers) ([]cpuState, error) {
	if states, err := vm.statesPlaced(ctx, shown); err == nil {
		return states, nil
	}
	state, err := vm.deviceState(ctx)
	if err != nil {
		return nil, err
	}
	states, err := believed(state, shown, true)
	if err == nil {
		_ = vm.settle(states) // else the next stop lasts as long
	}
	return states, err
}
