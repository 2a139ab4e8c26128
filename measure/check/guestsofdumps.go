package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A dump has no word of whether a CPU ran a guest of the target's: it has neither
// EFER nor QEMU's hflags, and the registers are the guest's then. What is left is
// KVM's own word in the memory that was dumped: which of the kernel's CPUs were in a
// guest (vCPU loaded, and mode IN_GUEST_MODE or EXITING_GUEST_MODE). As many CPUs of
// the dump as that may have a guest's registers, and which they are the page tables
// tell: a guest names its tables by addresses of its own, at which the target's memory
// has something else. They are not known then ([mem.Virtualization]), and what is said
// of each CPU is not measured.
//
// That word is the target's, so it never makes a pass. Nor does it hide a CPU with the
// kernel's tables, unless it is that CPU that is said to be in a guest, and of others
// not more than there are guests: then all of them are judged.

// Values of vcpu->mode (include/linux/kvm_host.h).
const (
	inGuestMode      = 1
	exitingGuestMode = 2
)

// guestsTold says which of the kernel's CPUs are in a guest by KVM's word.
type guestsTold struct {
	in  map[int]bool
	err error // why that is not known: each may be
}

// untold reports whether a source does not tell whether a CPU ran a guest.
func untold(r mem.Registers) bool { return r.Virtualization == nil && !r.Known("EFER") }

// setApart takes CPUs out that may have had a guest's registers, once a kernel is
// known.
func (c *collector) setApart(registers []mem.Registers) (known []mem.Registers, apart absentCPUs) {
	if c.profile == nil || !slices.ContainsFunc(registers, untold) {
		return registers, nil
	}
	told := c.guestsTold()
	if told.err == nil && len(told.in) == 0 {
		return registers, nil
	}
	why := "it may have run a guest of the target, by KVM's word, and the source does not tell"
	online, err := c.onlineCPUs()
	if err := errors.Join(told.err, err); err != nil {
		why = fmt.Sprintf("it may have run a guest of the target, and the source does not tell: %v", err)
	}
	for _, r := range online.guestsAmong(registers, &told, c.kernels) {
		apart = append(apart, absentCPU{CPU: r.CPU, Unread: why})
	}
	return apart.without(registers), apart
}

// leaveOutGuests does so with the registers that the kernel was found by.
func (c *collector) leaveOutGuests() {
	known, apart := c.setApart(c.registers)
	c.registers, c.absent = known, append(c.absent, apart...)
}

// profileOfAllInGuests makes the profile of a dump whose registers led to no kernel,
// for which it gives a reason, by the kernel's own description of itself. It must say
// that all CPUs ran guests.
func (c *collector) profileOfAllInGuests(cache *kernel.Cache, reason error) error {
	if c.kind == measure.Xen || !slices.ContainsFunc(c.registers, untold) {
		return reason
	}
	err := guard(func() (err error) {
		c.profile, err = cache.Profile(c.machine.Memory(), nil)
		return err
	})
	if err == nil {
		c.space = c.profile.Space.Cached()
		c.listModules()
		if known, _ := c.setApart(c.registers); len(known) == 0 {
			return nil
		}
	}
	c.profile = nil
	return reason
}

// noRegisters is why there are none to judge.
func (c *collector) noRegisters() error {
	if err := c.absent.unaccounted(); err != nil {
		return err
	}
	return kernel.ErrNoRegisters
}

// guestsAmong returns those of a dump's CPUs that may have had a guest's registers.
// o is nil if it is not known which CPUs there are.
func (o *onlineCPUs) guestsAmong(registers []mem.Registers, told *guestsTold, kernels func(*mem.Registers) bool) []mem.Registers {
	if o == nil || told.err != nil {
		return slices.DeleteFunc(slices.Clone(registers), func(r mem.Registers) bool { return kernels(&r) })
	}
	claims := make(map[int]int)
	for _, r := range registers {
		if n, ok := o.tables[r.GDT.Base]; ok && kernels(&r) {
			claims[n]++
		}
	}
	var foreign, apart []mem.Registers
	for _, r := range registers {
		n, ok := o.tables[r.GDT.Base]
		switch {
		case !kernels(&r):
			foreign = append(foreign, r)
			apart = append(apart, r)
		case ok && (told.in[n] || claims[n] > 1 || !o.online[n]): // about to enter a guest, or one that looks so
			apart = append(apart, r)
		}
	}
	// CPUs that are not on line have what firmware or the trampoline left them.
	most := len(told.in) + max(0, len(registers)-len(o.online))
	switch {
	case len(apart) <= most:
		return apart
	case len(foreign) <= most:
		return foreign
	}
	return nil
}

// kernels reports whether a CPU uses page tables of this kernel: its own, or with
// page-table isolation those of a process.
func (c *collector) kernels(r *mem.Registers) bool {
	space, err := paging.NewSpace(c.machine.Memory(), r)
	if err != nil {
		return false
	}
	text, err := c.profile.Space.Translate(c.profile.Base)
	if err != nil {
		return false
	}
	for _, root := range []mem.Phys{space.Root(), space.Root() &^ mem.PageSize} {
		own, err := paging.SpaceAt(c.machine.Memory(), root, space.Levels()).Translate(c.profile.Base)
		if err == nil && own.Phys == text.Phys && own.Virt == text.Virt {
			return r.CPL == 3 || c.perCPU(r.GSBase)
		}
	}
	return false
}

// perCPU reports whether a CPU's own data are at an address, as GS has it in the
// kernel but for its first steps from user mode.
func (c *collector) perCPU(at mem.Virt) bool {
	bases, err := c.profile.PerCPU()
	return err != nil || slices.Contains(bases, at)
}

// guestsTold reads KVM's word (per-CPU kvm_running_vcpu, virt/kvm/kvm_main.c, since
// 5.6). Where its types are not known, before 5.11, each vCPU that is loaded counts.
func (c *collector) guestsTold() guestsTold {
	if _, err := c.kvmVendor(); errors.Is(err, errNoKVM) {
		return guestsTold{}
	} else if err != nil {
		return guestsTold{err: err}
	}
	in, err := c.inGuests()
	return guestsTold{in, err}
}

func (c *collector) inGuests() (map[int]bool, error) {
	m, err := c.module("kvm")
	if err != nil {
		return nil, err
	}
	symbols, err := c.moduleSymbols(m)
	if err != nil {
		return nil, err
	}
	at, ok := symbols.Address("kvm_running_vcpu")
	if !ok {
		return nil, fmt.Errorf("%w: no kvm_running_vcpu", kernel.ErrNoSymbols)
	}
	bases, err := c.profile.PerCPU()
	if err != nil {
		return nil, err
	}
	mode, hasMode := uint64(0), false
	if types, err := c.profile.ModuleTypes(m); err == nil {
		if mode, err = types.Offset("kvm_vcpu", "mode"); err != nil {
			return nil, err
		}
		hasMode = true
	}
	in := make(map[int]bool)
	for n, base := range bases {
		vcpu, err := c.space.U64(base + mem.Virt(at))
		if err != nil {
			return nil, err
		}
		if vcpu == 0 {
			continue
		}
		now := uint32(inGuestMode)
		if hasMode {
			if now, err = c.space.U32(mem.Virt(vcpu + mode)); err != nil {
				return nil, err
			}
		}
		if now == inGuestMode || now == exitingGuestMode {
			in[n] = true
		}
	}
	return in, nil
}
