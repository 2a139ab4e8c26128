package graph

// held is a line of the table of containers: what a head holds, and by which
// member. A kernel takes the first line whose type and member it has.
type held struct {
	form  form
	elem  string // "type.member" of the link, or "type"
	count string // member of the head's owner with the number of elements
	head  string // member with the pointer, as "type.member", if not the first
	skip  string // the head is this member of an element that is not one itself
	// exact says that nothing is visited but the element: the larger object in which
	// it lies may have been given up, and have other things in it by now.
	exact bool
}

// Heads of xarrays and maple trees (include/linux/idr.h, xarray.h, maple_tree.h).
const (
	idrHead   = "idr.idr_rt.xa_head"
	xaHead    = "xarray.xa_head"
	mapleRoot = "maple_tree.ma_root"
)

// containers says what lists, trees and arrays hold, by "owner.member". BTF
// does not tell. Sources are the kernel's, files of 6.1 except where noted.
var containers = map[string][]held{
	// include/linux/fs.h, struct super_block: "s_inodes: all inodes".
	"super_block.s_inodes": {{form: list, elem: "inode.i_sb_list"}},
	"super_block.s_roots":  {{form: hlist, elem: "dentry.d_hash"}},
	// include/linux/dcache.h; since 6.8 an hlist (d_children, d_sib).
	"dentry.d_subdirs":  {{form: list, elem: "dentry.d_child"}},
	"dentry.d_children": {{form: hlist, elem: "dentry.d_sib"}},
	// include/linux/sched/signal.h, struct signal_struct.
	"signal_struct.thread_head": {{form: list, elem: "task_struct.thread_node"}},
	// include/linux/fdtable.h, struct fdtable: fd has max_fds entries.
	"fdtable.fd": {{form: pointers, elem: "file", count: "max_fds"}},
	// include/linux/mm_types.h, struct mm_struct: mm_mt since 6.1; before, the
	// vmas are linked by vm_next.
	"mm_struct.mm_mt": {{form: maple, elem: "vm_area_struct", head: mapleRoot}},
	// kernel/trace/trace.h, struct trace_array.
	"trace_array.events":  {{form: list, elem: "trace_event_file.list"}},
	"trace_array.systems": {{form: list, elem: "trace_subsystem_dir.list"}},
	// include/linux/kobject.h, struct kset.
	"kset.list": {{form: list, elem: "kobject.entry"}},
	// include/linux/proc_fs.h, fs/proc/internal.h, struct proc_dir_entry.
	"proc_dir_entry.subdir": {{form: tree, elem: "proc_dir_entry.subdir_node"}},
	// include/linux/kernfs.h, struct kernfs_elem_dir.
	"kernfs_elem_dir.children": {{form: tree, elem: "kernfs_node.rb"}},
	// include/linux/netdevice.h and net/core/dev.c.
	"net.dev_base_head":         {{form: list, elem: "net_device.dev_list"}},
	"net_device.napi_list":      {{form: list, elem: "napi_struct.dev_list"}},
	"net_device.ptype_all":      {{form: list, elem: "packet_type.list"}},
	"net_device.ptype_specific": {{form: list, elem: "packet_type.list"}},
	// include/net/net_namespace.h, since 6.18 (and stable kernels that took it).
	"net.ptype_all":      {{form: list, elem: "packet_type.list"}},
	"net.ptype_specific": {{form: list, elem: "packet_type.list"}},
	// include/net/hotdata.h, since 6.9.
	"net_hotdata.offload_base": {{form: list, elem: "packet_offload.list"}},
	// include/linux/pci.h, struct pci_bus.
	"pci_bus.children": {{form: list, elem: "pci_bus.node"}},
	"net.rules_ops":    {{form: list, elem: "fib_rules_ops.list"}},
	// include/net/af_packet: struct netns_packet.
	"netns_packet.sklist": {{form: hlist, elem: "sock.__sk_common.skc_node"}},
	// include/linux/netfilter.h, struct nf_hook_entries.
	"nf_hook_entries.hooks": {{form: inPlace, elem: "nf_hook_entry", count: "num_hook_entries"}},
	// include/linux/lsm_hooks.h, struct security_hook_heads, up to 6.11.
	"security_hook_heads.*": {{form: hlist, elem: "security_hook_list.list"}},
	// kernel/time/timer.c, struct timer_base; kernel/time/hrtimer.c.
	"timer_base.vectors":        {{form: hlist, elem: "timer_list.entry"}},
	"hrtimer_clock_base.active": {{form: tree, elem: "hrtimer.node.node"}},
	// kernel/workqueue.c, struct worker_pool, workqueue_struct, pool_workqueue.
	"worker_pool.worklist":          {{form: list, elem: "work_struct.entry"}},
	"worker_pool.workers":           {{form: list, elem: "worker.node"}},
	"workqueue_struct.pwqs":         {{form: list, elem: "pool_workqueue.pwqs_node"}},
	"pool_workqueue.inactive_works": {{form: list, elem: "work_struct.entry"}},
	"pool_workqueue.delayed_works":  {{form: list, elem: "work_struct.entry"}}, // up to 5.13
	// include/linux/tty_driver.h: arrays of num entries.
	"tty_driver.ttys":  {{form: pointers, elem: "tty_struct", count: "num"}},
	"tty_driver.ports": {{form: pointers, elem: "tty_port", count: "num"}},
	// include/linux/perf_event.h, struct perf_event_context.
	"perf_event_context.event_list": {{form: list, elem: "perf_event.event_entry"}},
	// arch/x86/kernel/nmi.c, struct nmi_desc; arch/x86/include/asm/nmi.h.
	"nmi_desc.head": {{form: list, elem: "nmiaction.list"}},
	// kernel/events/uprobes.c, struct uprobe: a list since 6.12, linked by next before.
	"uprobe.consumers": {{form: list, elem: "uprobe_consumer.cons_node"}},
	// include/linux/tracepoint-defs.h: funcs ends with a probe of no function.
	"tracepoint.funcs": {{form: terminated, elem: "tracepoint_func"}},
	// include/linux/module.h: tracepoint_ptr_t is a distance or a pointer.
	"module.tracepoints_ptrs": {
		{form: relative, elem: "tracepoint", count: "num_tracepoints"}, {form: pointers, elem: "tracepoint", count: "num_tracepoints"},
	},
	// include/linux/eventpoll.h: fs/eventpoll.c, struct eventpoll.
	"eventpoll.rbr": {{form: tree, elem: "epitem.rbn"}},
	// include/linux/wait.h: a head of struct wait_queue_entry.
	"wait_queue_head.head": {{form: list, elem: "wait_queue_entry.entry"}},
	// include/linux/sched.h: work that a task does before it returns to user mode.
	"task_struct.task_works": {{form: chain, elem: "callback_head.next", exact: true}},
	// include/linux/rcu_segcblist.h: callbacks that wait for a grace period. What
	// they are part of may have been given up.
	"rcu_segcblist.head": {{form: chain, elem: "callback_head.next", exact: true}},
	"rcu_cblist.head":    {{form: chain, elem: "callback_head.next", exact: true}},
	"rcu_tasks.cbs_head": {{form: chain, elem: "callback_head.next", exact: true}}, // up to 5.16
	// include/linux/kthread.h, struct kthread_worker.
	"kthread_worker.work_list":         {{form: list, elem: "kthread_work.node"}},
	"kthread_worker.delayed_work_list": {{form: list, elem: "kthread_work.node"}},
	// kernel/time/alarmtimer.c, struct alarm_base.
	"alarm_base.timerqueue": {{form: tree, elem: "alarm.node.node"}},
	// include/linux/posix-timers: struct signal_struct.
	"signal_struct.posix_timers": {{form: list, elem: "k_itimer.list"}, {form: hlist, elem: "k_itimer.list"}},
}

// choice is a line of the table of choices.
type choice struct {
	member string // of the union's owner; none if the choice is always this
	mask   uint64
	equals uint64
	symbol string
	not    bool
}

// choices says which member of a union is meant, by "owner.member".
var choices = map[string]choice{
	// include/linux/fs.h: i_fop until the inode is freed, then free_inode.
	"inode.i_fop": {},
	// include/linux/dcache.h: d_child while the dentry lives.
	// fs/proc/internal.h: proc_dir_ops of directories (S_IFDIR), else proc_ops.
	"proc_dir_entry.proc_ops":     {member: "mode", mask: 0o170000, equals: 0o040000, not: true},
	"proc_dir_entry.proc_dir_ops": {member: "mode", mask: 0o170000, equals: 0o040000},
	// fs/proc/generic.c, proc_create_seq_private and proc_create_single_data.
	"proc_dir_entry.seq_ops":     {member: "proc_ops", symbol: "proc_seq_ops"},
	"proc_dir_entry.single_show": {member: "proc_ops", symbol: "proc_single_ops"},
	// include/linux/kernfs.h: KERNFS_DIR 1, KERNFS_FILE 2 of KERNFS_TYPE_MASK.
	"kernfs_node.dir":  {member: "flags", mask: 0xf, equals: 1},
	"kernfs_node.attr": {member: "flags", mask: 0xf, equals: 2},
	// include/linux/smp_types.h, CSD_TYPE_TTWU of CSD_FLAG_TYPE_MASK: a task to be
	// woken, not a call.
	"__call_single_data.func": {member: "node.u_flags", mask: 0xf0, equals: 0x30, not: true},
}

// skipped are members that do not hold what their type says, by
// "owner.member", with the reason.
var skipped = map[string]string{
	"module.init": "text that is freed after loading (kernel/module, do_init_module)",
	// Set by the kernel's own text and called while it boots only; the text they
	// point to is freed then.
	"x86_platform_ops.realmode_reserve": "__init (arch/x86/kernel/x86_init.c)",
	"x86_platform_ops.realmode_init":    "__init (arch/x86/kernel/x86_init.c)",
	"x86_platform_ops.apic_post_init":   "__init under KVM and Hyper-V (kvm_apic_init, arch/x86/kernel/kvm.c)",
	"smp_ops.smp_prepare_boot_cpu":      "__init (arch/x86/kernel/smp.c)",
	"smp_ops.smp_prepare_cpus":          "__init (arch/x86/kernel/smp.c)",
	"smp_ops.smp_cpus_done":             "__init (arch/x86/kernel/smp.c)",
	"efi.runtime":                       "a table of the firmware's (include/linux/efi.h)",
	"trace_event_class.raw_init":        "__init (kernel/trace/trace_syscalls.c, init_syscall_trace)",

	"sigaction.sa_handler":  "an address in the process (include/linux/signal_types.h)",
	"sigaction.sa_restorer": "an address in the process",
	// The timers are walked from their trees.
	"hrtimer_cpu_base.next_timer":         "kept for comparing; of a CPU that is off line it may be gone (kernel/time/hrtimer.c)",
	"hrtimer_cpu_base.softirq_next_timer": "the same",

	// What a function is called for right now is kept for comparing. The function may
	// give it up, or end the wait of whoever has it on his stack.
	"worker.current_work":         "kernel/workqueue.c, process_one_work; walked from the pool's list while it waits",
	"kthread_worker.current_work": "kernel/kthread.c, kthread_worker_fn; the same",
	"timer_base.running_timer":    "kernel/time/timer.c, call_timer_fn; walked from the wheel",
	"hrtimer_clock_base.running":  "kernel/time/hrtimer.c, __run_hrtimer; walked from the tree",

	// These are walked from their lists.
	"super_block.s_shrink":        "kept after it was freed, until the super block is (fs/super.c, deactivate_locked_super, 6.7)",
	"trace_event_file.event_call": "kept after the event was removed, while somebody has the file open (kernel/trace/trace_events.c, EVENT_FILE_FL_FREED)",
	"trace_event_file.system":     "the same",
	"trace_event_file.tr":         "the same",

	"perf_sample_data.raw":   "a record on the stack of who takes the sample, kept when it is gone (kernel/trace/bpf_trace.c, bpf_perf_event_output)",
	"worker.last_func":       "what a worker did last, compared and never called; may be in text freed after boot (kernel/workqueue.c, wq_worker_last_func)",
	"task_struct.vmacache":   "may be stale: a sequence number says so (mm/vmacache.c, up to 6.0)",
	"task_struct.last_wakee": "kept without a reference (kernel/sched/fair.c, record_wakee)",
	"task_struct.rcu":        "the same",
	"kthread.threadfn":       "called once (kernel/kthread.c); may be in text freed after boot",
}

// leftBehind are members that may keep a pointer to one function, whose text was
// freed after boot, by "owner.member".
var leftBehind = map[string]string{
	// Of a timer whose trial failed, and which is off since: calibrate_APIC_clock
	// (arch/x86/kernel/apic/apic.c).
	"clock_event_device.event_handler": "lapic_cal_handler",
}

// callback is what RCU calls, or a task (include/linux/types.h, struct rcu_head).
const callback = "callback_head"

// skippedTypes are structures that are not walked, with the reason.
var skippedTypes = map[string]string{
	"page":    "describes memory in unions",
	"folio":   "the same",
	"slab":    "the same",
	"sk_buff": "in flight",
	"bio":     "in flight, from pools that do not clear it",
	"request": "in flight, from pools that do not clear it",
	"pt_regs": "registers",
	// Its func holds other things while it is not queued (kernel/rcu/tree.c,
	// kvfree_call_rcu), and its next what it led to when it last was.
	callback: "holds what it was last used for, but on the lists that are in the table of containers",
	// Links: what is linked is in the table of containers.
	"list_head":        "a link",
	"hlist_head":       "a link",
	"hlist_node":       "a link",
	"hlist_bl_head":    "a link",
	"hlist_bl_node":    "a link",
	"hlist_nulls_head": "a link",
	"hlist_nulls_node": "a link",
	"llist_head":       "a link",
	"llist_node":       "a link",
	"plist_head":       "a link",
	"plist_node":       "a link",
	"rb_root":          "a link",
	"rb_root_cached":   "a link",
	"rb_node":          "a link",
}

// functions are void pointers that are pointers to functions.
var functions = map[string]bool{
	"tracepoint_func.func": true, // include/linux/tracepoint-defs.h
	"static_call_key.func": true, // include/linux/static_call_types.h
	// The function that calls all probes, which the static call gets. Nothing is
	// called by way of static_call_tramp and, since 6.7, probestub.
	"tracepoint.iterator": true,
}

// programs are members that point to code which the kernel made of a program
// and may keep no symbol of (kernel/bpf/core.c, bpf_prog_select_runtime: those
// of classic BPF have none). They are told apart from other pointers.
var programs = map[string]bool{"bpf_prog.bpf_func": true}
