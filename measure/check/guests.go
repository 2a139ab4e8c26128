package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A target that runs guests of its own (KVM's, Xen's) has, at any moment, CPUs that
// execute them. A source shows of such a CPU what it goes back to when it leaves
// the guest, or that it cannot ([mem.Virtualization]): then what is said of each CPU
// is not measured. Nothing that a guest of the target's has is ever judged as the
// target's.

// errAllUnread is elusive: at another moment a CPU may be outside.
var errAllUnread = errors.New("of no CPU the target's own registers were read")

// readRegisters reads all CPUs, counts what that stopped the target for, and keeps
// apart those whose own registers are not known.
func (c *collector) readRegisters() (known []mem.Registers, unread absentCPUs, err error) {
	all, err := c.machine.Registers(c.ctx)
	if clock, ok := c.machine.(pauseClock); ok && err == nil && clock.PausedFor() > 0 {
		c.stopped(clock.PausedFor())
	}
	for _, r := range all {
		if why := r.Unread(); why != "" {
			unread = append(unread, absentCPU{CPU: r.CPU, Unread: why})
			continue
		}
		known = append(known, r)
	}
	known, apart := c.setApart(known)
	return known, append(unread, apart...), err
}

// seek has registers by which a kernel can be sought. Where only some are known, it
// is sought by these.
func (c *collector) seek() (err error) {
	if c.registers, c.absent, err = c.readRegisters(); err != nil {
		return err
	}
	if len(c.registers) == 0 && len(c.absent) > 0 {
		return fmt.Errorf("%w: %w", errAllUnread, c.absent.unaccounted())
	}
	return nil
}

// offline are those of them that are not on line.
func (a absentCPUs) offline() absentCPUs {
	return slices.DeleteFunc(slices.Clone(a), func(c absentCPU) bool { return c.Unread != "" })
}

// callsUnread are CPUs whose registers of system calls are not known to be the
// target's own.
func (c *collector) callsUnread() (out absentCPUs) {
	for _, s := range c.systemCalls {
		switch v := s.Virtualization; {
		case v == nil || c.absent.has(s.CPU):
		case v.Unread != "":
			out = append(out, absentCPU{CPU: s.CPU, Unread: v.Unread})
		case v.Guest && !c.savesCalls():
			out = append(out, absentCPU{CPU: s.CPU, Unread: "it ran a guest of the target, and its own registers of system calls are not where it left the rest"})
		case !v.User && c.foreignCalls(s) && c.guestsCallsStay():
			out = append(out, absentCPU{CPU: s.CPU, Unread: "KVM leaves a guest's registers of system calls in it until it goes back to user mode"})
		}
	}
	return out
}

// foreignCalls reports whether SYSCALL does not lead to the kernel's entry as the
// kernel has it.
func (c *collector) foreignCalls(s mem.SystemCalls) bool {
	entry, ok := c.profile.Symbol(entry64)
	return ok && (mem.Virt(s.LSTAR) != entry || address(s.STAR) != starSegments || address(s.FMASK)&neededFlags != neededFlags)
}

// callsPass reports whether a CPU has a guest's registers of system calls by the look of
// it, and KVM does not say so: it may have put the kernel's back between the look at the
// CPU and the one at its own data.
func (c *collector) callsPass() bool {
	return c.leavesGuestsCalls() && slices.ContainsFunc(c.systemCalls, func(s mem.SystemCalls) bool {
		v := s.Virtualization
		return v != nil && !v.User && !c.absent.has(s.CPU) && !c.callsApart.has(s.CPU) && c.foreignCalls(s)
	})
}

// leavesGuestsCalls reports whether the target's KVM leaves a guest's registers of
// system calls in a CPU that has left the guest.
func (c *collector) leavesGuestsCalls() bool {
	vendor, err := c.kvmVendor()
	return err == nil && (vendor != "kvm_amd" || !c.savesCalls())
}

// guestsCallsStay reports whether some CPU has, by KVM's word, a guest's registers of
// system calls while it runs the kernel: kvm_intel loads them when a vCPU is about to
// run and puts the kernel's back before user mode (struct kvm_user_return_msrs,
// arch/x86/kvm/x86.c, since 5.11), and so did kvm_amd, for as long as a vCPU is loaded,
// before 5.12 (host_user_msrs of struct vcpu_svm).
func (c *collector) guestsCallsStay() bool {
	if !c.leavesGuestsCalls() {
		return false
	}
	m, err := c.module("kvm")
	if err != nil {
		return false
	}
	symbols, err := c.moduleSymbols(m)
	if err != nil {
		return false
	}
	running, ok := symbols.Address("kvm_running_vcpu")
	bases, err := c.profile.PerCPU()
	if !ok || err != nil {
		return false
	}
	registered, hasRegistered := c.userReturn(m, symbols)
	for _, base := range bases {
		if vcpu, err := c.space.U64(base + mem.Virt(running)); err == nil && vcpu != 0 {
			return true
		}
		if !hasRegistered {
			continue
		}
		var flag [1]byte
		if err := c.space.Read(flag[:], base+registered); err == nil && flag[0] != 0 {
			return true
		}
	}
	return false
}

// userReturn is where, of a CPU's own data, KVM has whether it loaded registers that
// it must put back.
func (c *collector) userReturn(m *kernel.LoadedModule, symbols *kernel.ModuleSymbols) (mem.Virt, bool) {
	at, ok := symbols.Address("user_return_msrs")
	types, err := c.profile.ModuleTypes(m)
	if !ok || err != nil {
		return 0, false
	}
	offset, err1 := types.Offset("kvm_user_return_msrs", "registered")
	own, err2 := c.space.U64(mem.Virt(at))
	return mem.Virt(own + offset), err1 == nil && err2 == nil
}

// savesCalls reports whether this target puts TR, LDT, FS, GS and the registers of
// system calls into the page that VMRUN saves the rest in: KVM does since 5.12 (VMSAVE
// in svm_prepare_guest_switch, arch/x86/kvm/svm/svm.c, with struct vcpu_svm's
// guest_state_loaded). Before, it has them in each vCPU, and they are the guest's
// until the vCPU is put away.
func (c *collector) savesCalls() bool {
	m, err := c.module("kvm_amd")
	if err != nil {
		return false
	}
	types, err := c.profile.ModuleTypes(m)
	if err != nil {
		return false
	}
	_, err = types.Offset("vcpu_svm", "guest_state_loaded")
	return err == nil
}
