package graph

// shape is how a global variable holds what it holds.
type shape uint8

const (
	value        shape = iota // a structure
	pointer                   // a pointer to one
	array                     // structures up to the next symbol
	pointerArray              // pointers up to the next symbol
	holds                     // the head of a container
	holdsArray                // heads up to the next symbol
	function                  // a pointer to a function
)

// root is a global variable with the type that its declaration gives it:
// kallsyms has its address, and BTF has per-CPU variables only.
type root struct {
	symbol string
	shape  shape
	typ    string // of value, pointer and arrays
	held   []held // of holds
	needs  string // "type.member": without it the kernel is not one that has the root
	other  string // where this symbol is, the kernel is not one that has the root
}

// roots is where a walk starts, besides per-CPU variables, modules and
// tracepoints. Sources are the kernel's, files of 6.1 except where noted. A
// kernel that lacks a symbol is not walked from there, and the result says so.
var roots = []root{
	// Processes: init/init_task.c. The list goes through the tasks themselves.
	{symbol: "init_task", shape: value, typ: "task_struct"},
	{symbol: "init_task", shape: holds, held: []held{{form: list, elem: "task_struct.tasks", skip: "task_struct.tasks"}}},
	{symbol: "init_pid_ns", shape: value, typ: "pid_namespace"},
	{symbol: "init_nsproxy", shape: value, typ: "nsproxy"},

	// Files: fs/super.c, fs/filesystems.c, fs/char_dev.c, fs/exec.c.
	{symbol: "super_blocks", shape: holds, held: []held{{form: list, elem: "super_block.s_list"}}},
	{symbol: "file_systems", shape: pointer, typ: "file_system_type", needs: "file_system_type.next"}, // up to 7.0
	{symbol: "file_systems", shape: holds, held: []held{{form: hlist, elem: "file_system_type.list"}}, needs: "file_system_type.list"},
	{symbol: "cdev_map", shape: pointer, typ: "kobj_map"},
	{symbol: "chrdevs", shape: pointerArray, typ: "char_device_struct"},
	{symbol: "formats", shape: holds, held: []held{{form: list, elem: "linux_binfmt.lh"}}},
	{symbol: "proc_root", shape: value, typ: "proc_dir_entry"},
	{symbol: "sysfs_root", shape: pointer, typ: "kernfs_root"},
	{symbol: "sysfs_root_kn", shape: pointer, typ: "kernfs_node"},
	{symbol: "misc_list", shape: holds, held: []held{{form: list, elem: "miscdevice.list"}}},
	{symbol: "bdi_list", shape: holds, held: []held{{form: list, elem: "backing_dev_info.bdi_list"}}},

	// Network: net/core/net_namespace.c, net/socket.c, net/core/sock.c,
	// net/core/dev.c, net/ipv4/protocol.c, net/ipv4/af_inet.c.
	{symbol: "net_namespace_list", shape: holds, held: []held{{form: list, elem: "net.list"}}},
	{symbol: "pernet_list", shape: holds, held: []held{{form: list, elem: "pernet_operations.list"}}},
	{symbol: "net_families", shape: pointerArray, typ: "net_proto_family"},
	{symbol: "proto_list", shape: holds, held: []held{{form: list, elem: "proto.node"}}},
	{symbol: "ptype_all", shape: holds, held: []held{{form: list, elem: "packet_type.list"}}},
	{symbol: "ptype_base", shape: holdsArray, held: []held{{form: list, elem: "packet_type.list"}}},
	{symbol: "inet_protos", shape: pointerArray, typ: "net_protocol"},
	{symbol: "inet6_protos", shape: pointerArray, typ: "inet6_protocol"},
	{symbol: "inet_offloads", shape: pointerArray, typ: "net_offload"},
	{symbol: "inet6_offloads", shape: pointerArray, typ: "net_offload"},
	{symbol: "inetsw", shape: holdsArray, held: []held{{form: list, elem: "inet_protosw.list"}}},
	{symbol: "inetsw6", shape: holdsArray, held: []held{{form: list, elem: "inet_protosw.list"}}},
	// net/core/rtnetlink.c: for each family an array, made with kcalloc, of a
	// pointer for each kind of message.
	{symbol: "rtnl_msg_handlers", shape: holdsArray, held: []held{{form: filling, elem: "rtnl_link"}}},
	{symbol: "link_ops", shape: holds, held: []held{{form: list, elem: "rtnl_link_ops.list"}}},
	{symbol: "tcp_cong_list", shape: holds, held: []held{{form: list, elem: "tcp_congestion_ops.list"}}},
	{symbol: "tcp_ulp_list", shape: holds, held: []held{{form: list, elem: "tcp_ulp_ops.list"}}},
	{symbol: "qdisc_base", shape: pointer, typ: "Qdisc_ops"},
	{symbol: "tcf_proto_base", shape: holds, held: []held{{form: list, elem: "tcf_proto_ops.head"}}},
	{symbol: "act_base", shape: holds, held: []held{{form: list, elem: "tc_action_ops.head"}}},
	{symbol: "offload_base", shape: holds, held: []held{{form: list, elem: "packet_offload.list"}}},
	{symbol: "genl_fam_idr", shape: holds, held: []held{{form: xarray, elem: "genl_family", head: idrHead}}},
	{symbol: "nl_table", shape: pointer, typ: "netlink_table"},

	{symbol: "net_hotdata", shape: value, typ: "net_hotdata", needs: "net_hotdata.offload_base"}, // net/core/hotdata.c, since 6.9
	{symbol: "lwtun_encaps", shape: pointerArray, typ: "lwtunnel_encap_ops"},                     // net/core/lwtunnel.c
	{symbol: "iptun_encaps", shape: pointerArray, typ: "ip_tunnel_encap_ops"},                    // net/ipv4/ip_tunnel_core.c
	{symbol: "nf_sockopts", shape: holds, held: []held{{form: list, elem: "nf_sockopt_ops.list"}}},
	{symbol: "nf_ct_hook", shape: pointer, typ: "nf_ct_hook"}, // net/netfilter/core.c
	{symbol: "nfnl_ct_hook", shape: pointer, typ: "nfnl_ct_hook"},
	{symbol: "xfrm_state_afinfo", shape: pointerArray, typ: "xfrm_state_afinfo"},   // net/xfrm/xfrm_state.c
	{symbol: "xfrm_policy_afinfo", shape: pointerArray, typ: "xfrm_policy_afinfo"}, // net/xfrm/xfrm_policy.c
	{symbol: "xfrm_km_list", shape: holds, held: []held{{form: list, elem: "xfrm_mgr.list"}}},

	// Security: security/security.c; static calls since 6.12.
	{symbol: "security_hook_heads", shape: value, typ: "security_hook_heads", other: "static_calls_table"},
	{symbol: "static_calls_table", shape: value, typ: "lsm_static_calls_table", other: "security_hook_heads"},

	// Chains of notifiers: the file that defines each; types from
	// include/linux/notifier.h.
	{symbol: "reboot_notifier_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "restart_handler_list", shape: value, typ: "atomic_notifier_head"},
	{symbol: "panic_notifier_list", shape: value, typ: "atomic_notifier_head"},
	{symbol: "die_chain", shape: value, typ: "atomic_notifier_head"},
	{symbol: "module_notify_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "netdev_chain", shape: value, typ: "raw_notifier_head"},
	{symbol: "inetaddr_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "inetaddr_validator_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "inet6addr_chain", shape: value, typ: "atomic_notifier_head"},
	{symbol: "inet6addr_validator_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "netevent_notif_chain", shape: value, typ: "atomic_notifier_head"},
	{symbol: "netlink_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "keyboard_notifier_list", shape: value, typ: "atomic_notifier_head"},
	{symbol: "vt_notifier_list", shape: value, typ: "atomic_notifier_head"},
	{symbol: "pm_chain_head", shape: value, typ: "blocking_notifier_head"},
	{symbol: "crypto_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "oom_notify_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "fb_notifier_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "acpi_chain_head", shape: value, typ: "blocking_notifier_head"},
	{symbol: "tracepoint_notify_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "clk_notifier_list", shape: holds, held: []held{{form: list, elem: "clk_notifier.node"}}},
	{symbol: "x86_mce_decoder_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "memory_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "cpufreq_policy_notifier_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "cpufreq_transition_notifier_list", shape: value, typ: "srcu_notifier_head"},
	{symbol: "vmap_notify_list", shape: value, typ: "blocking_notifier_head"},
	{symbol: "blocking_lsm_notifier_chain", shape: value, typ: "blocking_notifier_head"},
	{symbol: "syscore_ops_list", shape: holds, held: []held{{form: list, elem: "syscore_ops.node"}}},

	// Tracing: kernel/kprobes.c, kernel/trace/ftrace.c, kernel/events/core.c,
	// kernel/bpf/syscall.c.
	{symbol: "kprobe_table", shape: holdsArray, held: []held{{form: hlist, elem: "kprobe.hlist"}}},
	{symbol: "ftrace_ops_list", shape: pointer, typ: "ftrace_ops"},
	{symbol: "ftrace_trace_arrays", shape: holds, held: []held{{form: list, elem: "trace_array.list"}}},
	{symbol: "ftrace_events", shape: holds, held: []held{{form: list, elem: "trace_event_call.list"}}},
	{symbol: "event_hash", shape: holdsArray, held: []held{{form: hlist, elem: "trace_event.node"}}}, // kernel/trace/trace_output.c
	{symbol: "trigger_commands", shape: holds, held: []held{{form: list, elem: "event_command.list"}}},
	{symbol: "ftrace_commands", shape: holds, held: []held{{form: list, elem: "ftrace_func_command.list"}}},
	{symbol: "pmus", shape: holds, held: []held{{form: list, elem: "pmu.entry"}}},
	{symbol: "pmu_idr", shape: holds, held: []held{{form: xarray, elem: "pmu", head: idrHead}}},
	{symbol: "ptp_insns", shape: pointer, typ: "bpf_prog"}, // net/core/ptp_classifier.c
	{symbol: "prog_idr", shape: holds, held: []held{{form: xarray, elem: "bpf_prog", head: idrHead}}},
	{symbol: "map_idr", shape: holds, held: []held{{form: xarray, elem: "bpf_map", head: idrHead}}},
	{symbol: "link_idr", shape: holds, held: []held{{form: xarray, elem: "bpf_link", head: idrHead}}},

	// Deferred work and time: kernel/workqueue.c, kernel/softirq.c,
	// kernel/time/clocksource.c, kernel/time/clockevents.c.
	{symbol: "workqueues", shape: holds, held: []held{{form: list, elem: "workqueue_struct.list"}}},
	{symbol: "worker_pool_idr", shape: holds, held: []held{{form: xarray, elem: "worker_pool", head: idrHead}}},
	{symbol: "softirq_vec", shape: array, typ: "softirq_action"},
	{symbol: "clocksource_list", shape: holds, held: []held{{form: list, elem: "clocksource.list"}}},
	{symbol: "clockevent_devices", shape: holds, held: []held{{form: list, elem: "clock_event_device.list"}}},
	{symbol: "cpuhp_hp_states", shape: array, typ: "cpuhp_step"}, // kernel/cpu.c
	{symbol: "irq_domain_list", shape: holds, held: []held{{form: list, elem: "irq_domain.link"}}},
	{symbol: "nmi_desc", shape: array, typ: "nmi_desc"},
	{symbol: "shrinker_list", shape: holds, held: []held{{form: list, elem: "shrinker.list"}}},
	{symbol: "irq_desc_tree", shape: holds, held: []held{{form: xarray, elem: "irq_desc", head: xaHead}}, other: "sparse_irqs"}, // up to 6.4
	{symbol: "sparse_irqs", shape: holds, held: []held{{form: maple, elem: "irq_desc", head: mapleRoot}}, other: "irq_desc_tree"},

	// What waits for RCU by way of tasks, and what does the waiting:
	// kernel/rcu/tasks.h. Alarms: kernel/time/alarmtimer.c.
	{symbol: "rcu_tasks", shape: value, typ: "rcu_tasks"},
	{symbol: "rcu_tasks_rude", shape: value, typ: "rcu_tasks"},
	{symbol: "rcu_tasks_trace", shape: value, typ: "rcu_tasks"}, // up to 6.18
	{symbol: "alarm_bases", shape: array, typ: "alarm_base"},

	// Who waits, and what is called to wake him: kernel/sched/wait_bit.c, mm/filemap.c,
	// kernel/printk/printk.c, drivers/char/random.c, kernel/audit.c.
	{symbol: "bit_wait_table", shape: array, typ: "wait_queue_head"},
	{symbol: "page_wait_table", shape: array, typ: "wait_queue_head", other: "folio_wait_table"},
	{symbol: "folio_wait_table", shape: array, typ: "wait_queue_head", other: "page_wait_table"},
	{symbol: "log_wait", shape: value, typ: "wait_queue_head"},
	{symbol: "kauditd_wait", shape: value, typ: "wait_queue_head"},

	// Devices: drivers/base, drivers/tty, drivers/input, kernel/printk.
	{symbol: "devices_kset", shape: pointer, typ: "kset"},
	{symbol: "bus_kset", shape: pointer, typ: "kset"},
	{symbol: "class_kset", shape: pointer, typ: "kset"},
	{symbol: "module_kset", shape: pointer, typ: "kset"},
	{symbol: "tty_drivers", shape: holds, held: []held{{form: list, elem: "tty_driver.tty_drivers"}}},
	{symbol: "tty_ldiscs", shape: pointerArray, typ: "tty_ldisc_ops"},
	{symbol: "console_drivers", shape: pointer, typ: "console", other: "console_list"}, // up to 6.1
	{symbol: "console_list", shape: holds, held: []held{{form: hlist, elem: "console.node"}}, other: "console_drivers"},
	{symbol: "conswitchp", shape: pointer, typ: "consw"},
	{symbol: "input_dev_list", shape: holds, held: []held{{form: list, elem: "input_dev.node"}}},
	{symbol: "input_handler_list", shape: holds, held: []held{{form: list, elem: "input_handler.node"}}},
	{symbol: "sysrq_key_table", shape: pointerArray, typ: "sysrq_key_op"},
	{symbol: "pci_root_buses", shape: holds, held: []held{{form: list, elem: "pci_bus.node"}}}, // drivers/pci/probe.c
	{symbol: "raw_pci_ops", shape: pointer, typ: "pci_raw_ops"},                                // arch/x86/pci/common.c
	{symbol: "raw_pci_ext_ops", shape: pointer, typ: "pci_raw_ops"},
	{symbol: "blkcg_policy", shape: pointerArray, typ: "blkcg_policy"}, // block/blk-cgroup.c
	{symbol: "elv_list", shape: holds, held: []held{{form: list, elem: "elevator_type.list"}}},
	{symbol: "cpufreq_driver", shape: pointer, typ: "cpufreq_driver"},
	{symbol: "cpuidle_curr_driver", shape: pointer, typ: "cpuidle_driver"},
	{symbol: "cpuidle_governors", shape: holds, held: []held{{form: list, elem: "cpuidle_governor.governor_list"}}},
	{symbol: "thermal_governor_list", shape: holds, held: []held{{form: list, elem: "thermal_governor.governor_list"}}},
	{symbol: "thermal_tz_list", shape: holds, held: []held{{form: list, elem: "thermal_zone_device.node"}}},

	// Others: crypto/algapi.c, security/keys/key.c, lib/, arch/x86.
	{symbol: "crypto_alg_list", shape: holds, held: []held{{form: list, elem: "crypto_alg.cra_list"}}},
	{symbol: "crypto_template_list", shape: holds, held: []held{{form: list, elem: "crypto_template.list"}}},
	{symbol: "key_types_list", shape: holds, held: []held{{form: list, elem: "key_type.link"}}},
	{symbol: "dump_list", shape: holds, held: []held{{form: list, elem: "kmsg_dumper.list"}}},
	{symbol: "cgroup_subsys", shape: pointerArray, typ: "cgroup_subsys"},                       // kernel/cgroup/cgroup.c
	{symbol: "uprobes_tree", shape: holds, held: []held{{form: tree, elem: "uprobe.rb_node"}}}, // kernel/events/uprobes.c
	{symbol: "x86_pmu", shape: value, typ: "x86_pmu"},                                          // arch/x86/events/core.c
	{symbol: "machine_ops", shape: value, typ: "machine_ops"},
	{symbol: "x86_platform", shape: value, typ: "x86_platform_ops"},
	{symbol: "pm_power_off", shape: function}, // arch/x86/kernel/reboot.c
	{symbol: "efi", shape: value, typ: "efi"}, // drivers/firmware/efi/efi.c
	{symbol: "smp_ops", shape: value, typ: "smp_ops"},
	{symbol: "apic", shape: pointer, typ: "apic"},
	{symbol: "pv_ops", shape: value, typ: "paravirt_patch_template"},
}

// promotion tells from a member's value in which larger structure an object
// lies.
type promotion struct {
	member string // pointer in the object
	symbol string // that it equals
	as     string // "type.member": the object is that member
}

// promotions are by type. Sources: drivers/base/core.c (device_ktype),
// drivers/base/bus.c (driver_ktype, bus_ktype), drivers/base/class.c,
// kernel/workqueue.c (delayed_work_timer_fn).
var promotions = map[string][]promotion{
	"kobject": {
		{"ktype", "device_ktype", "device.kobj"},
		{"ktype", "driver_ktype", "driver_private.kobj"},
		{"ktype", "bus_ktype", "subsys_private.subsys.kobj"},
		{"ktype", "class_ktype", "subsys_private.subsys.kobj"},
		{"ktype", "module_ktype", "module_kobject.kobj"},
	},
	// Sockets whose caches have no type of their own, as others of their size are
	// put together with them: net/ipv4/udp.c, udplite.c and ping.c, net/ipv6 the
	// same, net/unix/af_unix.c (unix_proto up to 5.14).
	"sock": {
		{"__sk_common.skc_prot", "udp_prot", "udp_sock.inet.sk"},
		{"__sk_common.skc_prot", "udplite_prot", "udp_sock.inet.sk"},
		{"__sk_common.skc_prot", "udpv6_prot", "udp6_sock.udp.inet.sk"},
		{"__sk_common.skc_prot", "udplitev6_prot", "udp6_sock.udp.inet.sk"},
		{"__sk_common.skc_prot", "ping_prot", "inet_sock.sk"},
		{"__sk_common.skc_prot", "netlink_proto", "netlink_sock.sk"}, // net/netlink/af_netlink.c
		{"__sk_common.skc_prot", "unix_dgram_proto", "unix_sock.sk"},
		{"__sk_common.skc_prot", "unix_stream_proto", "unix_sock.sk"},
		{"__sk_common.skc_prot", "unix_proto", "unix_sock.sk"},
	},
	"timer_list": {
		{"function", "delayed_work_timer_fn", "delayed_work.timer"},
	},
}

// told is a pointer whose type another member tells.
type told struct {
	member, symbol string // a pointer beside it, and what it equals
	mask, equals   uint64 // without a symbol: what the member is
	typ            string
}

// kernelThread is PF_KTHREAD (include/linux/sched.h): a thread of the kernel.
const kernelThread = 0x0020_0000

// tolds are by "owner.member". Sources: fs/char_dev.c, cdev_add; kernel/kthread.c,
// to_kthread, by set_child_tid up to 5.16, and kthread_worker_fn.
var tolds = map[string]told{
	"probe.data":                 {member: "get", symbol: "exact_match", typ: "cdev"},
	"task_struct.worker_private": {member: "flags", mask: kernelThread, equals: kernelThread, typ: "kthread"},
	"task_struct.set_child_tid":  {member: "flags", mask: kernelThread, equals: kernelThread, typ: "kthread"},
	"kthread.data":               {member: "threadfn", symbol: "kthread_worker_fn", typ: "kthread_worker"},
}
