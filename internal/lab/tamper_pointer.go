package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// pointerTampers change pointers to code in data. Those that the machine might
// follow while it is tampered with are left alone.
var pointerTampers = []Tamper{
	{
		Name: "kvm-ops", Check: "kvm.ops",
		Doc:   "point KVM's operation that sets a guest's RFLAGS into the middle of another function",
		apply: hookSlot("kvm_x86_ops", "svm_set_rflags", "svm_get_rflags", 8),
	},
	{
		Name: "kvm-ops-swapped", Check: "kvm.ops",
		Doc:   "exchange one of KVM's operations for another, proper, function of kvm_amd",
		apply: hookSlot("kvm_x86_ops", "svm_set_rflags", "svm_get_rflags", 0),
	},
	{
		Name: "kvm-ops-emptied", Check: "kvm.ops",
		Doc:   "take one of KVM's operations away, and from its static call",
		apply: emptyOperation,
	},
	{
		Name: "kvm-ops-data", Check: "kvm.ops",
		Doc:   "point one of KVM's operations at data",
		apply: hookSlot("kvm_x86_ops", "svm_set_rflags", "kvm_x86_ops", 0),
	},
	{
		Name: "kvm-nested-ops", Check: "kvm.ops",
		Doc:   "point one of KVM's operations for nested guests at data",
		apply: hookSlot("svm_nested_ops", "svm_leave_nested", "kvm_x86_ops", 0),
	},
	{
		Name: "kvm-pmu-ops", Check: "kvm.ops",
		Doc:   "point one of KVM's performance counter operations at data",
		apply: hookSlot("kvm_pmu_ops", "amd_pmu_set_msr", "kvm_x86_ops", 0),
	},
	{
		Name: "kvm-exit-handler", Check: "kvm.ops",
		Doc:   "point KVM's handler of one reason for leaving a guest at another function",
		apply: hookSlot("svm_exit_handlers", "skinit_interception", "svm_get_rflags", 0),
	},
	{
		Name: "tcp-operations", Check: "linux.pointers",
		Doc:   "point an operation of TCP at data",
		apply: hookField("tcp_prot", "proto", "ioctl"),
	},
	{
		Name: "tcp-seq-operations", Check: "linux.rodata",
		Doc:   "point the function behind /proc/net/tcp at data, as rootkits do to hide ports",
		apply: hookField("tcp4_seq_ops", "seq_operations", "show"),
	},
	{
		Name: "socket-operations", Check: "linux.rodata",
		Doc:   "point an operation of TCP sockets at data",
		apply: hookField("inet_stream_ops", "proto_ops", "socketpair"),
	},
	{
		Name: "tty-operations", Check: "linux.pointers",
		Doc:   "point an operation of the terminal line discipline at data, as key loggers do",
		apply: hookField("n_tty_ops", "tty_ldisc_ops", "ioctl"),
	},
	{
		Name: "binary-format", Check: "linux.pointers",
		Doc:   "point what the kernel does to dump the core of a program at data",
		apply: hookField("elf_format", "linux_binfmt", "core_dump"),
	},
	{
		Name: "machine-operations", Check: "linux.pointers",
		Doc:   "point what the kernel does to restart the machine in an emergency at data",
		apply: hookField("machine_ops", "machine_ops", "emergency_restart"),
	},
	{
		Name: "file-system-type", Check: "linux.pointers",
		Doc:   "point what the kernel does when a file system of ramfs goes at data",
		apply: hookField("ramfs_fs_type", "file_system_type", "kill_sb"),
	},
	{
		Name: "file-operations", Check: "modules.rodata",
		Doc:   "point an operation on ext4's files at data",
		apply: hookField("ext4_file_operations", "file_operations", "fallocate"),
	},
	{
		Name: "inode-operations", Check: "modules.rodata",
		Doc:   "point an operation on ext4's inodes at data",
		apply: hookField("ext4_file_inode_operations", "inode_operations", "fiemap"),
	},
	{
		Name: "work-item", Check: "linux.pointers",
		Doc:   "point the kernel's deferred power-off at data",
		apply: hookField("poweroff_work", "work_struct", "func"),
	},
	{
		Name: "timer", Check: "linux.pointers",
		Doc:   "point the timer that blanks the console at data",
		apply: hookField("console_timer", "timer_list", "function"),
	},
	{
		Name: "sysrq-operation", Check: "linux.rodata",
		Doc:   "point what the kernel does at the crash key at data",
		apply: hookField("sysrq_crash_op", "sysrq_key_op", "handler"),
	},
	{
		Name: "ftrace-callback", Check: "linux.pointers",
		Doc:   "point the callback of the function tracer at data",
		apply: hookField("ftrace_trace_function", "", ""),
	},
	{
		Name: "reboot-notifier", Check: "linux.pointers",
		Doc:   "point the first function called before a reboot at data",
		apply: hookNotifier,
	},
	{
		Name: "lsm-hook", Check: "linux.pointers",
		Doc:   "point a security hook, that of mounting, at data",
		apply: hookSecurity,
	},
}

// pointerTarget is where hooked pointers point: data, where no code may be.
const pointerTarget = "init_task"

// hookSlot finds the slot of a table that holds a function's address and
// stores target+offset there.
func hookSlot(table, function, target string, offset uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, table, function, target)
		if err != nil {
			return err
		}
		slot, err := c.findPointer(ctx, at[0], at[1], 512)
		if err != nil {
			return err
		}
		return c.write(ctx, slot, word(at[2]+offset))
	}
}

// emptyOperation clears an operation in KVM's table and the function in the key of
// the static call that was made from it.
func emptyOperation(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "kvm_x86_ops", "svm_set_rflags", "__SCK__kvm_x86_set_rflags")
	if err != nil {
		return err
	}
	slot, err := c.findPointer(ctx, at[0], at[1], 512)
	if err != nil {
		return err
	}
	if err := c.write(ctx, slot, word(0)); err != nil {
		return err
	}
	return c.write(ctx, at[2], word(0))
}

// hookField points a member of a global structure at data; without a structure
// the global itself is the pointer.
func hookField(variable, structure, member string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, variable, pointerTarget)
		if err != nil {
			return err
		}
		var offset uint64
		if structure != "" {
			if offset, err = c.offset(ctx, structure, member); err != nil {
				return err
			}
		}
		return c.write(ctx, at[0]+offset, word(at[1]))
	}
}

// hookNotifier changes the first block of the chain called before a reboot.
func hookNotifier(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "reboot_notifier_list", pointerTarget)
	if err != nil {
		return err
	}
	head, err := c.offset(ctx, "blocking_notifier_head", "head")
	if err != nil {
		return err
	}
	call, err := c.offset(ctx, "notifier_block", "notifier_call")
	if err != nil {
		return err
	}
	block, err := c.mem.readWord(at[0] + head)
	if err != nil {
		return err
	}
	return c.write(ctx, block+call, word(at[1]))
}

// hookSecurity changes the first function of a security hook. Up to 6.11 hooks
// are lists; later ones are static calls, whose table still points to the
// entries.
func hookSecurity(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "security_hook_heads|static_calls_table", pointerTarget)
	if err != nil {
		return err
	}
	hook, err := c.offset(ctx, "security_hook_list", "hook")
	if err != nil {
		return err
	}
	first, err := c.offset(ctx, "security_hook_heads", "sb_mount") // struct hlist_head: first
	if errors.Is(err, btf.ErrNotFound) {
		var list uint64
		if first, err = c.offset(ctx, "lsm_static_calls_table", "sb_mount"); err != nil {
			return err
		}
		if list, err = c.offset(ctx, "lsm_static_call", "hl"); err != nil {
			return err
		}
		first += list
	}
	if err != nil {
		return err
	}
	entry, err := c.mem.readWord(at[0] + first)
	if err != nil {
		return err
	}
	return c.write(ctx, entry+hook, word(at[1]))
}

// findPointer searches the first words of a table for a pointer.
func (c *change) findPointer(ctx context.Context, table, want uint64, words uint64) (slot uint64, err error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, err
	}
	for i := range words {
		value, err := mem.readWord(table + 8*i)
		if err != nil {
			return 0, err
		}
		if value == want {
			return table + 8*i, nil
		}
	}
	return 0, fmt.Errorf("the table at %#x holds no pointer to %#x", table, want)
}
