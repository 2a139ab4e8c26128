package lab

import (
	"bytes"
	"context"
	"errors"
)

// dynamicTampers change code that the kernel made while it ran. What they change
// belongs to functions that an idle machine does not run.
var dynamicTampers = []Tamper{
	{
		Name: "kprobe-slot", Check: "linux.dynamic",
		Doc:   "change the copy of an instruction that a kprobe replaced",
		apply: changeSlot("ainsn.insn", "kprobe", 0),
	},
	{
		Name: "kprobe-optimized-slot", Check: "linux.dynamic",
		Doc:   "change the code that the jump of an optimized kprobe goes to",
		apply: changeSlot("optinsn.insn", "optimized_kprobe", 40),
	},
	{
		Name: "kprobe-optimized-elsewhere", Check: "linux.dynamic",
		Doc:   "have the jump of an optimized kprobe, and its record, go behind the slot's beginning",
		apply: moveSlot,
	},
	{
		Name: "ftrace-trampoline", Check: "linux.dynamic",
		Doc:   "change a byte of the code that ftrace made for one tracer",
		apply: changeTrampoline,
	},
	{
		Name: "bpf-image", Check: "linux.dynamic",
		Doc:   "put a privileged instruction into the code of a BPF program",
		apply: changeBPF,
	},
	{
		Name: "bpf-planted", Check: "linux.dynamic",
		Doc:   "make a page of a module's constants executable and put it on the list of BPF's code",
		apply: plantBPF,
	},
	{
		Name: "page-executable-unowned", Check: "linux.dynamic",
		Doc:   "make a page of a module's constants executable, which nobody has an account of",
		apply: changeRights("ext4_file_operations", 0, 0, entryNoExecute),
	},
}

// probeInside puts a kprobe at the first place behind the entry of a function
// that takes one, and waits until it is optimized. A place between instructions
// is refused. The function has to be one that does not return: on processors
// where returns go through a thunk the kernel takes its jumps there for indirect
// ones, and optimizes no probe in such a function (can_optimize and
// insn_is_indirect_jump, arch/x86/kernel/kprobes/opt.c; seen with 5.10 and 6.1
// and the EPYC model). 12 and 16 are the places where it does so at once.
const probeInside = `set -e
	cd /sys/kernel/tracing
	for offset in 12 16 $(seq 5 24); do
		echo "p:lab_inside ` + probedInside + `+$offset" >> kprobe_events 2>/dev/null || continue
		echo 1 > events/kprobes/lab_inside/enable
		for try in $(seq 600); do
			if grep -q 'sys_exit+.*OPTIMIZED' /sys/kernel/debug/kprobes/list; then exit 0; fi
			sleep 0.1
		done
		echo 0 > events/kprobes/lab_inside/enable
		echo '-:lab_inside' >> kprobe_events
	done
	exit 1`

const probedInside = "__x64_sys_exit"

const noProbeInside = `cd /sys/kernel/tracing
	[ -e events/kprobes/lab_inside ] || exit 0
	echo 0 > events/kprobes/lab_inside/enable
	echo '-:lab_inside' >> kprobe_events`

// changeSlot flips a bit of the code of a kprobe that a member points to.
func changeSlot(member, structure string, offset uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		probe, err := c.probe(ctx)
		if err != nil {
			return err
		}
		insn, err := c.offset(ctx, structure, member)
		if err != nil {
			return err
		}
		slot, err := c.mem.readWord(probe + insn)
		if err != nil {
			return err
		}
		return c.flip(ctx, slot+offset)
	}
}

// probe registers a kprobe in a function and finds it in the kernel's table.
func (c *change) probe(ctx context.Context) (uint64, error) {
	if err := c.shell(ctx, probeInside, noProbeInside); err != nil {
		return 0, err
	}
	at, err := c.symbols(ctx, "kprobe_table", probedInside)
	if err != nil {
		return 0, err
	}
	addr, err := c.offset(ctx, "kprobe", "addr")
	if err != nil {
		return 0, err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, err
	}
	for i := range uint64(64) {
		node, err := mem.readWord(at[0] + 8*i)
		for n := 0; err == nil && node != 0 && n < maxList; n++ {
			var where uint64
			if where, err = mem.readWord(node + addr); err == nil && where > at[1] && where < at[1]+64 {
				return node, nil
			}
			if err == nil {
				node, err = mem.readWord(node)
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, errors.New("the kprobe is not in the kernel's table")
}

// moveSlot changes where an optimized probe's code is, in its record and in the
// text.
func moveSlot(ctx context.Context, c *change) error {
	probe, err := c.probe(ctx)
	if err != nil {
		return err
	}
	insn, err := c.offset(ctx, "optimized_kprobe", "optinsn.insn")
	if err != nil {
		return err
	}
	addr, err := c.offset(ctx, "kprobe", "addr")
	if err != nil {
		return err
	}
	slot, err := c.mem.readWord(probe + insn)
	if err != nil {
		return err
	}
	site, err := c.mem.readWord(probe + addr)
	if err != nil {
		return err
	}
	if err := c.write(ctx, probe+insn, word(slot+8)); err != nil {
		return err
	}
	return c.write(ctx, site+1, word(slot + 8 - site - 5)[:4])
}

// changeTrampoline traces a function that nobody calls and changes the newest
// trampoline.
func changeTrampoline(ctx context.Context, c *change) error {
	err := c.shell(ctx, `set -e
		cd /sys/kernel/tracing
		mkdir instances/lab
		echo __x64_sys_acct > instances/lab/set_ftrace_filter
		echo function > instances/lab/current_tracer`,
		`cd /sys/kernel/tracing
		[ -e instances/lab ] || exit 0
		echo nop > instances/lab/current_tracer
		rmdir instances/lab`)
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "ftrace_ops_trampoline_list")
	if err != nil {
		return err
	}
	list, err := c.offset(ctx, "ftrace_ops", "list")
	if err != nil {
		return err
	}
	code, err := c.offset(ctx, "ftrace_ops", "trampoline")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	first, err := mem.readWord(at[0] + 8) // added at the end
	if err != nil {
		return err
	}
	trampoline, err := mem.readWord(first - list + code)
	if err != nil {
		return err
	}
	return c.flip(ctx, trampoline+12)
}

// changeBPF attaches a program to the loopback interface, which is idle, and
// replaces its first instructions by RDMSR and NOPs.
func changeBPF(ctx context.Context, c *change) error {
	if err := attachBPF(ctx, c); err != nil {
		return err
	}
	at, err := c.symbols(ctx, "pack_list")
	if err != nil {
		return err
	}
	list, err := c.offset(ctx, "bpf_prog_pack", "list")
	if err != nil {
		return err
	}
	ptr, err := c.offset(ctx, "bpf_prog_pack", "ptr")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	first, err := mem.readWord(at[0])
	if err != nil {
		return err
	}
	pack, err := mem.readWord(first - list + ptr)
	if err != nil {
		return err
	}
	code := make([]byte, 64<<10)
	if err := mem.read(pack, code); err != nil {
		return err
	}
	// The program is the smallest: XOR or MOV of EAX, LEAVE, RET.
	for _, end := range [][]byte{{0xc9, 0xc3}, {0xc9, 0xe9}} { // before RET or a return thunk
		if i := bytes.LastIndex(code, end); i > 0 {
			return c.write(ctx, pack+uint64(i)-2, []byte{0x0f, 0x32})
		}
	}
	return errors.New("the memory of BPF programs holds none")
}

// plantBPF makes an entry of the list of BPF's code, a struct bpf_ksym, among the
// constants of kvm_amd, which is idle, and has it claim their page.
func plantBPF(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "bpf_kallsyms", "svm_exit_handlers")
	if err != nil {
		return err
	}
	page := at[1] &^ 4095
	entry := page + 1024
	node, err := c.offset(ctx, "bpf_ksym", "lnode")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	first, err := mem.readWord(at[0])
	if err != nil {
		return err
	}
	for _, f := range []struct {
		member string
		data   []byte
	}{
		{"start", word(page)}, {"end", word(page + 4096)}, {"name", []byte("bpf_trampoline_1\x00")}, {"prog", []byte{0}},
		{"lnode", append(word(first), word(at[0])...)},
	} {
		offset, err := c.offset(ctx, "bpf_ksym", f.member)
		if err != nil {
			return err
		}
		if err := c.put(ctx, entry+offset, f.data); err != nil {
			return err
		}
	}
	if err := c.changeEntry(ctx, page, 0, entryNoExecute); err != nil {
		return err
	}
	if err := c.write(ctx, first+8, word(entry+node)); err != nil {
		return err
	}
	return c.write(ctx, at[0], word(entry+node))
}
