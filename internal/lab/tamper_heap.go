package lab

import (
	"context"
	"fmt"
)

// heapTampers change pointers to code in objects that the kernel allocated, or
// give it forged tables and objects: they lie in a page of a process, which the
// kernel reaches through its direct map, as attackers without memory of their
// own do (Kemerlis and others, ret2dir, USENIX Security 2014). The functions
// that are exchanged are those that the machine does not call meanwhile.
var heapTampers = []Tamper{
	{
		Name: "open-file-operations", Check: "linux.objects",
		Doc:   "give an open file a forged table of operations",
		apply: forgeFile("/etc/passwd", "file_operations", "flock", "file.f_op"),
	},
	{
		Name: "ext4-inode-operations", Check: "linux.objects",
		Doc:   "give an inode of ext4 a forged table of file operations",
		apply: forgeFile("/etc/passwd", "file_operations", "flock", "file.f_inode", "inode.i_fop"),
	},
	{
		Name: "tmpfs-inode-operations", Check: "linux.objects",
		Doc:   "give an inode of tmpfs a forged table of inode operations",
		apply: forgeFile("/run/lab-forged", "inode_operations", "fiemap", "file.f_inode", "inode.i_op"),
	},
	{
		Name: "address-space-operations", Check: "linux.objects",
		Doc:   "give a file's cached pages a forged table of operations",
		apply: forgeFile("/etc/passwd", "address_space_operations", "bmap", "file.f_inode", "inode.i_mapping", "address_space.a_ops"),
	},
	{
		Name: "super-block-operations", Check: "linux.objects",
		Doc:   "give a mounted tmpfs a forged table of operations",
		apply: forgeFile("/run/lab-forged", "super_operations", "umount_begin", "file.f_inode", "inode.i_sb", "super_block.s_op"),
	},
	{
		Name: "seq-operations", Check: "linux.objects",
		Doc:   "give an open /proc/modules a forged iterator, as rootkits do to hide modules",
		apply: forgeFile("/proc/modules", "seq_operations", "show", "file.private_data", "seq_file.op"),
	},
	{
		Name: "proc-entry-operations", Check: "linux.objects",
		Doc:   "give an entry of /proc a forged table of operations",
		apply: forgeProcEntry,
	},
	{
		Name: "terminal-operations", Check: "linux.objects",
		Doc:   "give the console's terminal a forged table of operations",
		apply: forgeFile("/dev/ttyS0", "tty_operations", "hangup", "file.private_data", "tty_file_private.tty", "tty_struct.ops"),
	},
	{
		Name: "heap-work-item", Check: "linux.objects",
		Doc:   "point the work that a terminal's secure attention key queues at data",
		apply: hookFile("/dev/ttyS0", "tty_struct", "SAK_work.func", "file.private_data", "tty_file_private.tty"),
	},
	{
		Name: "planted-notifier", Check: "linux.objects",
		Doc:   "append a forged block, with a call into the middle of a function, to the chain called before a reboot",
		apply: plantNotifier,
	},
	{
		Name: "planted-timer", Check: "linux.objects",
		Doc:   "link a forged timer into the wheel of CPU 0",
		apply: plantTimer,
	},
	{
		Name: "planted-probe", Check: "linux.objects",
		Doc:   "give a tracepoint a forged list of probes",
		apply: plantProbe("__tracepoint_module_free"),
	},
	{
		Name: "planted-module-probe", Check: "linux.objects",
		Doc:   "give a tracepoint of kvm a forged list of probes",
		apply: plantProbe("__tracepoint_kvm_exit"),
	},
	{
		Name: "module-tracepoint-call", Check: "linux.objects",
		Doc:   "point the function behind a tracepoint of kvm that calls its probes at data",
		apply: hookTracepoint,
	},
	{
		Name: "module-tracepoints-hidden", Check: "linux.objects",
		Doc:   "have kvm say that it has no tracepoints",
		apply: hideTracepoints,
	},
	{
		Name: "netfilter-hook", Check: "linux.objects",
		Doc:   "give forwarded packets a forged list of netfilter hooks",
		apply: plantNetfilter,
	},
	{
		Name: "bpf-program", Check: "linux.objects",
		Doc:   "point the code of a BPF program at data",
		apply: hookProgram,
	},
	{
		Name: "hotplug-callback", Check: "linux.objects",
		Doc:   "point what the kernel calls for a CPU that comes, in a state that none passes, at data",
		apply: hookField("cpuhp_hp_states", "cpuhp_step", "startup"),
	},
	{
		Name: "pci-bus-operations", Check: "linux.objects",
		Doc:   "give the first PCI bus a forged table of operations",
		apply: forgeBus,
	},
	{
		Name: "kprobe-handler", Check: "linux.objects",
		Doc:   "point the handler of a registered probe at data",
		apply: hookProbe,
	},
}

// forgeFile gives a process an open file, follows the path of members from its
// struct file ("type.member") to a table, and exchanges the table for a copy
// with one function changed.
func forgeFile(file, table, function string, path ...string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		h, err := c.hold(ctx, file)
		if err != nil {
			return err
		}
		slot, err := c.follow(ctx, h.file, path...)
		if err != nil {
			return err
		}
		return c.forge(ctx, slot, h.room, table, function)
	}
}

// hookFile points a member of an object reached from an open file at data.
func hookFile(file, structure, member string, path ...string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		h, err := c.hold(ctx, file)
		if err != nil {
			return err
		}
		slot, err := c.follow(ctx, h.file, path...)
		if err != nil {
			return err
		}
		object, err := c.mem.readWord(slot)
		if err != nil {
			return err
		}
		offset, err := c.offset(ctx, structure, member)
		if err != nil {
			return err
		}
		at, err := c.symbols(ctx, pointerTarget)
		if err != nil {
			return err
		}
		return c.write(ctx, object+offset, word(at[0]))
	}
}

// forgeProcEntry changes the entry of /proc behind an open file: struct
// proc_inode, in which the inode lies, has it.
func forgeProcEntry(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/proc/uptime")
	if err != nil {
		return err
	}
	slot, err := c.follow(ctx, h.file, "file.f_inode")
	if err != nil {
		return err
	}
	inode, err := c.mem.readWord(slot)
	if err != nil {
		return err
	}
	within, err := c.offset(ctx, "proc_inode", "vfs_inode")
	if err != nil {
		return err
	}
	if slot, err = c.follow(ctx, inode-within, "proc_inode.pde", "proc_dir_entry.proc_ops"); err != nil {
		return err
	}
	return c.forge(ctx, slot, h.room, "proc_ops", "proc_lseek")
}

// plantNotifier appends a block to the end of a chain.
func plantNotifier(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "reboot_notifier_list", "vfs_read")
	if err != nil {
		return err
	}
	next, err := c.offset(ctx, "notifier_block", "next")
	if err != nil {
		return err
	}
	slot, err := c.follow(ctx, at[0], "blocking_notifier_head.head")
	if err != nil {
		return err
	}
	for range maxList {
		block, err := c.mem.readWord(slot)
		if err != nil {
			return err
		}
		if block == 0 {
			return c.plant(ctx, slot, h.room, 0, at[1]+9, "notifier_block", "notifier_call")
		}
		slot = block + next
	}
	return fmt.Errorf("the chain at %#x does not end", at[0])
}

// forgeBus changes what is called when a device is added to a bus.
func forgeBus(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "pci_root_buses")
	if err != nil {
		return err
	}
	node, err := c.offset(ctx, "pci_bus", "node")
	if err != nil {
		return err
	}
	first, err := c.mem.readWord(at[0])
	if err != nil {
		return err
	}
	slot, err := c.follow(ctx, first-node, "pci_bus.ops")
	if err != nil {
		return err
	}
	return c.forge(ctx, slot, h.room, "pci_ops", "add_bus")
}

// plantTimer links a timer into the last, empty bucket of the wheel that nothing
// marks as occupied: it never fires.
func plantTimer(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "timer_bases", "__per_cpu_offset", pointerTarget)
	if err != nil {
		return err
	}
	base, err := c.mem.readWord(at[1])
	if err != nil {
		return err
	}
	vectors, err := c.offset(ctx, "timer_base", "vectors")
	if err != nil {
		return err
	}
	for bucket := uint64(575); bucket > 400; bucket-- { // WHEEL_SIZE - 1 with HZ=250: kernel/time/timer.c
		slot := at[0] + base + vectors + 8*bucket
		if first, err := c.mem.readWord(slot); err != nil || first == 0 {
			if err != nil {
				return err
			}
			return c.plant(ctx, slot, h.room, 0, at[2], "timer_list", "function")
		}
	}
	return fmt.Errorf("no empty bucket in the wheel at %#x", at[0]+base)
}

// plantProbe gives a tracepoint that is off a list of one probe.
func plantProbe(tracepoint string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		h, err := c.hold(ctx, "/etc/passwd")
		if err != nil {
			return err
		}
		at, err := c.symbols(ctx, tracepoint, pointerTarget)
		if err != nil {
			return err
		}
		slot, err := c.follow(ctx, at[0], "tracepoint.funcs")
		if err != nil {
			return err
		}
		return c.plant(ctx, slot, h.room, 0, at[1], "tracepoint_func", "func")
	}
}

// hookTracepoint changes the function that calls the probes of a tracepoint, once
// it has several: the one that is off has none.
func hookTracepoint(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "__tracepoint_kvm_exit", pointerTarget)
	if err != nil {
		return err
	}
	iterator, err := c.offset(ctx, "tracepoint", "iterator")
	if err != nil {
		return err
	}
	return c.write(ctx, at[0]+iterator, word(at[1]))
}

// hideTracepoints clears kvm's number of tracepoints, which nothing reads until
// the module goes.
func hideTracepoints(ctx context.Context, c *change) error {
	head, named, err := c.moduleNamed(ctx, "kvm")
	if err != nil {
		return err
	}
	list, err := c.offset(ctx, "module", "list")
	if err != nil {
		return err
	}
	count, err := c.offset(ctx, "module", "num_tracepoints")
	if err != nil {
		return err
	}
	entry, err := c.entry(ctx, head, named)
	if err != nil {
		return err
	}
	return c.write(ctx, entry-list+count, make([]byte, 4))
}

// plantNetfilter gives hooks to a stage that has none: whether there are any is
// a static key, which stays off, so that no packet gets there.
func plantNetfilter(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "init_net", pointerTarget)
	if err != nil {
		return err
	}
	hooks, err := c.offset(ctx, "net", "nf.hooks_ipv4")
	if err != nil {
		return err
	}
	entry, err := c.offset(ctx, "nf_hook_entries", "hooks")
	if err != nil {
		return err
	}
	const forward = 2 // NF_INET_FORWARD, include/uapi/linux/netfilter.h
	return c.plant(ctx, at[0]+hooks+8*forward, h.room, 1, at[1], "nf_hook_entry", "hook", entry)
}

// hookProgram changes the program by which the kernel tells packets of the
// Precision Time Protocol apart, which none here are (net/core/ptp_classifier.c).
func hookProgram(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "ptp_insns", pointerTarget)
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	program, err := mem.readWord(at[0])
	if err != nil {
		return err
	}
	code, err := c.offset(ctx, "bpf_prog", "bpf_func")
	if err != nil {
		return err
	}
	return c.write(ctx, program+code, word(at[1]))
}

// hookProbe puts a probe where nothing runs while it is there.
func hookProbe(ctx context.Context, c *change) error {
	err := c.shell(ctx, `set -e
		cd /sys/kernel/tracing
		echo 'p:lab_forged kernel_power_off' >> kprobe_events
		echo 1 > events/kprobes/lab_forged/enable`,
		`cd /sys/kernel/tracing
		[ -e events/kprobes/lab_forged ] || exit 0
		echo 0 > events/kprobes/lab_forged/enable
		echo '-:lab_forged' >> kprobe_events`)
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "kprobe_table", "kernel_power_off", pointerTarget)
	if err != nil {
		return err
	}
	addr, err := c.offset(ctx, "kprobe", "addr")
	if err != nil {
		return err
	}
	handler, err := c.offset(ctx, "kprobe", "pre_handler")
	if err != nil {
		return err
	}
	for bucket := range uint64(64) { // KPROBE_TABLE_SIZE; hlist is the first member
		probe, err := c.mem.readWord(at[0] + 8*bucket)
		for ; err == nil && probe != 0; probe, err = c.mem.readWord(probe) {
			where, err := c.mem.readWord(probe + addr)
			if err != nil {
				return err
			}
			if where&^0xf == at[1]&^0xf {
				return c.write(ctx, probe+handler, word(at[2]))
			}
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("no probe of %#x", at[1])
}
