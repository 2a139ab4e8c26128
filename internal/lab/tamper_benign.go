package lab

import "fmt"

// benignChanges are what honest administrators do to a running machine.
var benignChanges = []Tamper{
	{
		Name: "ftrace", Benign: true,
		Doc: "trace one function with ftrace, which patches its entry",
		apply: script(OnOneCPU(`set -e
			cd /sys/kernel/tracing
			echo do_sys_openat2 > set_ftrace_filter
			echo function > current_tracer`),
			OnOneCPU(`cd /sys/kernel/tracing
			echo nop > current_tracer
			echo > set_ftrace_filter`)),
	},
	{
		Name: "kprobe", Benign: true,
		Doc: "put a kprobe into a function",
		apply: script(OnOneCPU(`set -e
			cd /sys/kernel/tracing
			echo 'p:lab_probe do_sys_openat2' >> kprobe_events
			echo 1 > events/kprobes/lab_probe/enable`),
			OnOneCPU(`cd /sys/kernel/tracing
			[ -e events/kprobes/lab_probe ] || exit 0
			echo 0 > events/kprobes/lab_probe/enable
			echo '-:lab_probe' >> kprobe_events`)),
	},
	{
		Name: "kprobe-optimized", Benign: true,
		Doc:   "put a kprobe into the middle of a function, which becomes a jump",
		apply: script(probeInside, noProbeInside),
	},
	{
		Name: "kretprobe", Benign: true,
		Doc: "put a probe where a function returns",
		apply: script(OnOneCPU(`set -e
			cd /sys/kernel/tracing
			echo 'r:lab_return vfs_read' >> kprobe_events
			echo 1 > events/kprobes/lab_return/enable`),
			OnOneCPU(`cd /sys/kernel/tracing
			[ -e events/kprobes/lab_return ] || exit 0
			echo 0 > events/kprobes/lab_return/enable
			echo '-:lab_return' >> kprobe_events`)),
	},
	{
		Name: "user-probe-runs", Benign: true,
		Doc:   "put a probe into a program, and run it",
		apply: script(userProbe("true")+"\n/usr/bin/true", noUserProbe),
	},
	{
		Name: "function-graph", Benign: true,
		Doc: "trace calls and returns of some functions",
		apply: script(OnOneCPU(`set -e
			cd /sys/kernel/tracing
			echo 'vfs_*' > set_ftrace_filter
			echo function_graph > current_tracer`),
			OnOneCPU(`cd /sys/kernel/tracing
			echo nop > current_tracer
			echo > set_ftrace_filter`)),
	},
	{
		Name: "module-load", Benign: true,
		Doc:   "load a module of the kernel package",
		apply: script(`modprobe dummy`, `modprobe -r dummy`),
	},
	{
		Name: "module-reload", Benign: true,
		Doc:   "unload KVM's modules and load them again",
		apply: script(`set -e; modprobe -r kvm_amd; modprobe kvm_amd`, `true`),
	},
	{
		Name: "local-segment", Benign: true,
		Doc:   "have a process with a local descriptor table, as of a DOS emulator",
		apply: script(localSegment, noLocalSegment),
	},
	{
		Name: "livepatch", Benign: true,
		Doc:   "load a live patch that replaces a function of the kernel",
		apply: livepatch,
	},
	{
		Name: "bpf-attach", Benign: true,
		Doc:   "attach a BPF program, compiled to machine code, to the network",
		apply: attachBPF,
	},
	{
		Name: "sniffer", Benign: true,
		Doc: "open a packet socket and a raw one, and listen to all packets of a device",
		apply: script(`set -e; ip link set eth0 promisc on; `+openSockets, `ip link set eth0 promisc off
			`+closeSockets),
	},
	{
		Name: "tracepoint", Benign: true,
		Doc: "enable the scheduler's tracepoints, which patches their jump labels and calls",
		apply: script(OnOneCPU(`echo 1 > /sys/kernel/tracing/events/sched/enable`),
			OnOneCPU(`echo 0 > /sys/kernel/tracing/events/sched/enable`)),
	},
	{
		Name: "module-tracepoint", Benign: true,
		Doc: "enable kvm's tracepoints, each with a probe of ftrace",
		apply: script(OnOneCPU(`echo 1 > /sys/kernel/tracing/events/kvm/enable`),
			OnOneCPU(`echo 0 > /sys/kernel/tracing/events/kvm/enable`)),
	},
	{
		Name: "tracepoint-twice", Benign: true,
		Doc: "enable the modules' tracepoints for two tracers, so that each has two probes",
		apply: script(OnOneCPU(`set -e
			cd /sys/kernel/tracing
			mkdir instances/lab_twice
			echo 1 > events/module/enable
			echo 1 > instances/lab_twice/events/module/enable`),
			OnOneCPU(`cd /sys/kernel/tracing
			echo 0 > events/module/enable
			[ -e instances/lab_twice ] || exit 0
			echo 0 > instances/lab_twice/events/module/enable
			rmdir instances/lab_twice`)),
	},
	{
		Name: "cpu-offline", Benign: true,
		Doc: "take CPU 1 off line",
		apply: script(`echo 0 > /sys/devices/system/cpu/cpu1/online`,
			`echo 1 > /sys/devices/system/cpu/cpu1/online`),
	},
	{
		Name: "other-users", Benign: true,
		Doc: "run programs of another user, with fewer rights, and in a user namespace, and let them fork",
		apply: script(`rm -f /run/lab-others
			for as in 'setpriv --reuid=1000 --regid=1000 --clear-groups' 'setpriv --bounding-set=-all' 'unshare -U -r' 'unshare -p -f'; do
				$as sh -c 'sleep 86401 & sleep 86401 & wait' <&- >&- 2>&- & echo $! >> /run/lab-others
			done
			for try in $(seq 300); do [ $(pgrep -c -f '^sleep 86401') -lt 8 ] || exit 0; sleep 0.2; done; exit 1`,
			`[ -e /run/lab-others ] || exit 0
			pkill -f '^sleep 86401'
			for pid in $(cat /run/lab-others); do while [ -d /proc/$pid ]; do sleep 0.2; done; done
			rm /run/lab-others`),
	},
	{
		Name: "load", Benign: true,
		Doc: "keep the machine busy with new processes and file reads until restored",
		apply: script(`rm -f /run/lab-load-stop
			(until [ -e /run/lab-load-stop ]; do ls -R /usr/share/doc; tar -c /usr/bin | wc -c; done) <&- >/dev/null 2>&1 &
			echo $! > /run/lab-load`,
			`[ -e /run/lab-load ] || exit 0
			touch /run/lab-load-stop
			while kill -0 $(cat /run/lab-load) 2>/dev/null; do sleep 0.2; done
			rm /run/lab-load /run/lab-load-stop`),
	},
	{
		Name: "package-install", Benign: true,
		Doc: "install a package with apt",
		apply: script(`apt-get install -q -q -y --no-install-recommends /srv/packages/hello_*.deb 2>&1`,
			`dpkg --purge hello`),
	},
	{
		Name: "file-touch-tmp", Benign: true,
		Doc:   "make a file in /tmp",
		apply: script(`echo scratch > /tmp/lab-scratch`, `rm -f /tmp/lab-scratch`),
	},
}

// attachBPF is of a kind of program that is on none of the kernel's lists.
var attachBPF = script(`set -e
	sysctl -q -w net.core.bpf_jit_enable=1
	tc qdisc add dev lo clsact
	tc filter add dev lo ingress bpf bytecode '1,6 0 0 4294967295'`,
	`tc qdisc del dev lo clsact 2>/dev/null || true`)

// userProbe puts a probe where a program of /usr/bin begins.
func userProbe(program string) string {
	return fmt.Sprintf(`set -e
		at=$(od -A n -t d8 -j 24 -N 8 /usr/bin/%[1]s | tr -d ' ')
		cd /sys/kernel/tracing
		echo "p:lab_user /usr/bin/%[1]s:$at" >> uprobe_events
		echo 1 > events/uprobes/lab_user/enable`, program)
}

const noUserProbe = `cd /sys/kernel/tracing
	[ -e events/uprobes/lab_user ] || exit 0
	echo 0 > events/uprobes/lab_user/enable
	echo '-:lab_user' >> uprobe_events`
