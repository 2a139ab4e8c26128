package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// slotPages are the pages that hold copies of probed instructions
// (kernel/kprobes.c, struct kprobe_insn_cache and kprobe_insn_page).
func (c *collector) slotPages(d *dynamicData) error {
	for _, name := range []string{"kprobe_insn_slots", "kprobe_optinsn_slots"} {
		cache, ok := c.profile.Symbol(name)
		if !ok {
			continue
		}
		size, err1 := c.profile.Types.Offset("kprobe_insn_cache", "insn_size")
		pages, err2 := c.profile.Types.Offset("kprobe_insn_cache", "pages")
		link, err3 := c.profile.Types.Offset("kprobe_insn_page", "list")
		insns, err4 := c.profile.Types.Offset("kprobe_insn_page", "insns")
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		slot, err := c.space.U64(cache + mem.Virt(size))
		if err != nil {
			return err
		}
		entries, err := kernel.List(c.space, cache+mem.Virt(pages), maxImages)
		if err != nil {
			return err
		}
		for _, at := range entries {
			page, err := c.space.U64(at - mem.Virt(link) + mem.Virt(insns))
			if err != nil {
				return err
			}
			d.Slots = append(d.Slots, slotFact{address(page), slot, name == "kprobe_optinsn_slots"})
		}
	}
	return nil
}

// probed are the registered probes. One is registered when its slot is filled.
func (c *collector) probed(d *dynamicData) error {
	var p patchingData
	err := c.kprobes(&p)
	d.Kprobes = p.Kprobes
	return err
}

// tracers are the trampolines of ftrace's users, also of those that trace
// nothing at the moment: static users keep theirs (kernel/trace/ftrace.c,
// ftrace_ops_trampoline_list, since 5.8).
func (c *collector) tracers(d *dynamicData) error {
	head, ok := c.profile.Symbol("ftrace_ops_trampoline_list")
	if !ok {
		return nil
	}
	var offsets [4]uint64
	for i, name := range []string{"list", "func", "trampoline", "trampoline_size"} {
		var err error
		if offsets[i], err = c.profile.Types.Offset("ftrace_ops", name); err != nil {
			return err
		}
	}
	entries, err := kernel.List(c.space, head, maxTrampolines)
	if err != nil {
		return err
	}
	for _, at := range entries {
		at -= mem.Virt(offsets[0])
		var fields [3]uint64
		for i, off := range offsets[1:] {
			if fields[i], err = c.space.U64(at + mem.Virt(off)); err != nil {
				return err
			}
		}
		if fields[1] != 0 {
			d.Tracers = append(d.Tracers, tracerFact{address(fields[1]), fields[2], address(at), address(fields[0])})
		}
	}
	return nil
}

// bpfNames are programs, trampolines and dispatchers (bpf_kallsyms, a list of
// struct bpf_ksym), and the shape of what stands before programs. Those that
// came as classic BPF are on no list.
func (c *collector) bpfNames(d *dynamicData) error {
	head, ok := c.profile.Symbol("bpf_kallsyms")
	if !ok {
		return nil // built without a compiler
	}
	var offsets [5]uint64
	for i, name := range []string{"lnode", "start", "end", "name", "prog"} {
		var err error
		if offsets[i], err = c.profile.Types.Offset("bpf_ksym", name); err != nil {
			return err
		}
	}
	var err error
	if d.Header, err = c.profile.Types.Size("bpf_binary_header"); err != nil {
		return err
	}
	if d.HeaderUnit = 1; c.profile.Types.Has("bpf_binary_header", "pages") {
		d.HeaderUnit = mem.PageSize
	}
	entries, err := kernel.List(c.space, head, maxImages)
	if err != nil {
		return err
	}
	for _, at := range entries {
		at -= mem.Virt(offsets[0])
		start, err1 := c.space.U64(at + mem.Virt(offsets[1]))
		end, err2 := c.space.U64(at + mem.Virt(offsets[2]))
		name, err3 := c.space.CString(at+mem.Virt(offsets[3]), maxImageName)
		var program [1]byte
		err4 := c.space.Read(program[:], at+mem.Virt(offsets[4]))
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		if end <= start || end-start > maxOwned {
			return fmt.Errorf("%q has %#x to %#x", name, start, end)
		}
		d.Images = append(d.Images, imageFact{name, address(start), address(end), program[0] == 0})
	}
	return nil
}

// realModeCode is the code that other CPUs start in, low in the direct map
// (arch/x86/realmode/init.c, real_mode_header).
func (c *collector) realModeCode(d *dynamicData) error {
	at, ok := c.profile.Symbol("real_mode_header")
	if !ok {
		return nil
	}
	base, err := c.space.U64(at)
	if err != nil || base == 0 {
		return err
	}
	phys, err := c.space.Phys(mem.Virt(base))
	d.RealMode = &realModeFact{address(base), phys}
	return err
}

// uncleared reads the kernel's switch for clearing memory that it gives out, a
// static key (mm/page_alloc.c, init_on_alloc, since 5.3). It is off where pages
// are poisoned too.
func (c *collector) uncleared(d *dynamicData) error {
	at, ok := c.profile.Symbol("init_on_alloc")
	if !ok {
		return nil
	}
	enabled, err := c.space.U32(at)
	d.Uncleared = err == nil && int32(enabled) == 0
	return err
}
