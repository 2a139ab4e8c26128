package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// kprobes reads the kernel's table of probes, 64 lists of struct kprobe linked
// through their first member (kernel/kprobes.c, kprobe_table).
func (c *collector) kprobes(d *patchingData) error {
	table, ok := c.profile.Symbol("kprobe_table")
	if !ok {
		return nil // built without kprobes
	}
	l, err := c.kprobeLayout()
	if err != nil {
		return err
	}
	heads, err := c.words(table, 64)
	if err != nil {
		return err
	}
	for _, head := range heads {
		for node := head; node != 0; {
			if len(d.Kprobes) == maxKprobes {
				return fmt.Errorf("over %d probes, or a loop", maxKprobes)
			}
			k, next, err := c.kprobe(l, mem.Virt(node))
			if err != nil {
				return err
			}
			d.Kprobes = append(d.Kprobes, k)
			node = next
		}
	}
	slices.SortFunc(d.Kprobes, func(a, b kprobeFact) int { return int(int64(a.At) - int64(b.At)) })
	return nil
}

// kprobeLayout holds offsets in struct kprobe and struct optimized_kprobe.
type kprobeLayout struct {
	addr, opcode, insn, handler, flags uint64
	aggregate                          uint64 // the handler of those that may be optimized; 0 if the kernel has none
	copied, slot                       uint64 // of these
}

// kprobeOptimized is KPROBE_FLAG_OPTIMIZED (include/linux/kprobes.h).
const kprobeOptimized = 4

func (c *collector) kprobeLayout() (l kprobeLayout, err error) {
	for _, f := range []struct {
		into *uint64
		name string
	}{{&l.addr, "addr"}, {&l.opcode, "opcode"}, {&l.handler, "pre_handler"}, {&l.flags, "flags"}} {
		if *f.into, err = c.profile.Types.Offset("kprobe", f.name); err != nil {
			return l, err
		}
	}
	if l.insn, err = c.profile.Types.Offset("kprobe", "ainsn", "insn"); err != nil {
		return l, err
	}
	if !c.profile.Types.Has("optimized_kprobe", "optinsn", "insn") {
		return l, nil
	}
	if l.copied, err = c.profile.Types.Offset("optimized_kprobe", "optinsn", "copied_insn"); err != nil {
		return l, err
	}
	if l.slot, err = c.profile.Types.Offset("optimized_kprobe", "optinsn", "insn"); err != nil {
		return l, err
	}
	aggregate, _ := c.profile.Symbol("aggr_pre_handler")
	l.aggregate = uint64(aggregate)
	return l, nil
}

func (c *collector) kprobe(l kprobeLayout, at mem.Virt) (k kprobeFact, next uint64, err error) {
	if next, err = c.space.U64(at); err != nil {
		return k, 0, err
	}
	addr, err := c.space.U64(at + mem.Virt(l.addr))
	if err != nil {
		return k, 0, err
	}
	var opcode [1]byte
	if err := c.space.Read(opcode[:], at+mem.Virt(l.opcode)); err != nil {
		return k, 0, err
	}
	insn, err1 := c.space.U64(at + mem.Virt(l.insn))
	handler, err2 := c.space.U64(at + mem.Virt(l.handler))
	k = kprobeFact{Probe: address(at), At: address(addr), Opcode: opcode[0], Slot: address(insn)}
	if err := errors.Join(err1, err2); err != nil || l.aggregate == 0 || handler != l.aggregate {
		return k, next, err
	}
	k.Copied = make([]byte, 4)
	if err := c.space.Read(k.Copied, at+mem.Virt(l.copied)); err != nil {
		return k, 0, err
	}
	jump, err1 := c.space.U64(at + mem.Virt(l.slot))
	flags, err2 := c.space.U32(at + mem.Virt(l.flags))
	k.Jump, k.Optimized = address(jump), flags&kprobeOptimized != 0
	return k, next, errors.Join(err1, err2)
}

// trampolines reads the list of ftrace's users (kernel/trace/ftrace.c,
// ftrace_ops_list, which ends with ftrace_list_end) and notes those that have
// code of their own.
func (c *collector) trampolines(d *patchingData) error {
	head, ok1 := c.profile.Symbol("ftrace_ops_list")
	end, ok2 := c.profile.Symbol("ftrace_list_end")
	if !ok1 || !ok2 {
		return nil // built without ftrace
	}
	var offsets [4]uint64
	for i, name := range []string{"next", "func", "trampoline", "trampoline_size"} {
		var err error
		if offsets[i], err = c.profile.Types.Offset("ftrace_ops", name); err != nil {
			return err
		}
	}
	at, err := c.space.U64(head)
	if err != nil {
		return err
	}
	for n := 0; mem.Virt(at) != end && at != 0; n++ {
		if n == maxTrampolines {
			return fmt.Errorf("over %d users, or a loop", maxTrampolines)
		}
		var fields [4]uint64
		for i, off := range offsets {
			if fields[i], err = c.space.U64(mem.Virt(at + off)); err != nil {
				return err
			}
		}
		if fields[2] != 0 {
			d.Trampolines = append(d.Trampolines, trampolineFact{At: address(fields[2]), Size: fields[3], Ops: address(at), Func: address(fields[1])})
		}
		at = fields[0]
	}
	return c.leavingTrampolines(d)
}

// leavingTrampolines adds those of users who have left the list: functions call
// them until the text is patched, and they are kept longer.
func (c *collector) leavingTrampolines(d *patchingData) error {
	var all dynamicData
	if err := c.tracers(&all); err != nil {
		return err
	}
	for _, t := range all.Tracers {
		if !slices.ContainsFunc(d.Trampolines, func(have trampolineFact) bool { return have.At == t.At }) {
			d.Trampolines = append(d.Trampolines, trampolineFact(t))
		}
	}
	return nil
}

func sorted(set map[mem.Virt]bool) []mem.Virt {
	return slices.Sorted(maps.Keys(set))
}
