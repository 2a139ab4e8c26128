package lab

// benignChanges are what honest administrators do to a running machine.
var benignChanges = []Tamper{
	{
		Name: "ftrace", Benign: true,
		Doc: "trace one function with ftrace, which patches its entry",
		apply: script(`set -e
			cd /sys/kernel/tracing
			echo do_sys_openat2 > set_ftrace_filter
			echo function > current_tracer`,
			`cd /sys/kernel/tracing
			echo nop > current_tracer
			echo > set_ftrace_filter`),
	},
	{
		Name: "kprobe", Benign: true,
		Doc: "put a kprobe into a function",
		apply: script(`set -e
			cd /sys/kernel/tracing
			echo 'p:lab_probe do_sys_openat2' >> kprobe_events
			echo 1 > events/kprobes/lab_probe/enable`,
			`cd /sys/kernel/tracing
			[ -e events/kprobes/lab_probe ] || exit 0
			echo 0 > events/kprobes/lab_probe/enable
			echo '-:lab_probe' >> kprobe_events`),
	},
	{
		Name: "module-load", Benign: true,
		Doc:   "load a module of the kernel package",
		apply: script(`modprobe dummy`, `modprobe -r dummy`),
	},
	{
		Name: "file-touch-tmp", Benign: true,
		Doc:   "make a file in /tmp",
		apply: script(`echo scratch > /tmp/lab-scratch`, `rm -f /tmp/lab-scratch`),
	},
}
