//go:build lab && matrix

package check_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
)

// busy keeps doing in the guest what honest people and programs do to a kernel,
// each thing at its own pace, for as long as the machine runs. They leave
// kernel.ftrace_enabled alone: in a run that switched it, a kernel 6.1 died in
// get_optimized_kprobe with a kprobe that was no more in its table. That the switch
// was the cause (a kprobe that goes through ftrace cannot be disarmed then) is likely
// and was not shown.
const busy = `(
	repeat() { (while :; do eval "$1"; done) <&- >/dev/null 2>&1 & }
	cd /sys/kernel/tracing
	mkdir -p instances/busy
	repeat 'modprobe dummy; sleep 7; modprobe -r dummy; sleep 5'
	repeat 'modprobe veth; sleep 11; modprobe -r veth; sleep 9'
	repeat 'echo "vfs_*" > instances/busy/set_ftrace_filter; echo function > instances/busy/current_tracer; sleep 0.4; echo nop > instances/busy/current_tracer; sleep 0.3'
	repeat 'echo "p:busy_a do_sys_openat2" >> kprobe_events; echo 1 > events/kprobes/busy_a/enable; sleep 0.6; echo 0 > events/kprobes/busy_a/enable; echo "-:busy_a" >> kprobe_events'
	repeat 'for o in 10 11 13 14 16 18; do echo "p:busy_b vfs_read+$o" >> kprobe_events && break; done; echo 1 > events/kprobes/busy_b/enable; sleep 0.9; echo 0 > events/kprobes/busy_b/enable; echo "-:busy_b" >> kprobe_events'
	repeat 'echo 1 > events/sched/enable; sleep 0.5; echo 0 > events/sched/enable; sleep 0.5'
	repeat 'tc qdisc add dev lo clsact; tc filter add dev lo ingress bpf bytecode "1,6 0 0 4294967295"; sleep 0.4; tc qdisc del dev lo clsact'
	repeat 'timeout 2 /opt/plumbline/bpfload < /dev/null; sleep 0.2'
	repeat 'timeout 5 /opt/plumbline/kvmguest spin io hlt; timeout 5 /opt/plumbline/kvmguest -churn spin io hlt; sleep 5'
	repeat 'echo 0 > /sys/devices/system/cpu/cpu1/online; sleep 1; echo 1 > /sys/devices/system/cpu/cpu1/online; sleep 2'
	echo devices > /sys/power/pm_test; echo 1 > /sys/module/suspend/parameters/pm_test_delay
	repeat 'sleep 20; echo freeze > /sys/power/state'
	repeat 'python3 -c "import socket, time; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 768); time.sleep(0.3)"'
	repeat 'ls -R /usr/share/doc; tar -c /usr/bin | wc -c'
	repeat 'for i in 1 2 3 4 5 6 7 8 9; do /bin/true; done; sleep 0.05'
	repeat 'dpkg -i /srv/packages/hello_*.deb; dpkg --purge hello; sleep 1'
	repeat 'sleep 13; modprobe -r kvm_amd && modprobe -r kvm ccp; sleep 1; modprobe ccp; modprobe kvm_amd; sleep 8'
	repeat 'for v in 0 1; do for k in kernel.sched_schedstats kernel.numa_balancing net.core.bpf_jit_harden kernel.perf_event_paranoid; do sysctl -w $k=$v; done; sleep 1.1; done'
	repeat 'for v in always never madvise; do echo $v > /sys/kernel/mm/transparent_hugepage/enabled; sleep 1; done'
	repeat 'unshare -n sh -c "ip link add br0 type bridge; ip link add v0 type veth peer name v1; ip link set v0 master br0; ip link set br0 up; ip link set v0 up; ip link set v1 up; sleep 0.5"; sleep 1'
	modprobe loop; truncate -s 8M /var/tmp/loop.img
	repeat 'mkfs.ext4 -q -F /var/tmp/loop.img; mount -o loop /var/tmp/loop.img /mnt && touch /mnt/file; umount /mnt; sleep 2'
	repeat 'mkdir /sys/fs/cgroup/busy; sh -c "echo \$\$ > /sys/fs/cgroup/busy/cgroup.procs; true"; rmdir /sys/fs/cgroup/busy; sleep 0.5'
	dd if=/dev/zero of=/var/tmp/swap bs=1M count=16; chmod 600 /var/tmp/swap; mkswap /var/tmp/swap
	repeat 'swapon /var/tmp/swap; sleep 1.3; swapoff /var/tmp/swap; sleep 1'
	repeat 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do /bin/true & done; wait; sleep 1'
	touch /run/busy-all ) <&- >/dev/null 2>&1 &`

// TestEndurance scans a machine that is kept busy: no honest change is ever a
// finding. A scan during which the machine changed too much may leave checks not
// measured; each reason is logged.
func TestEndurance(t *testing.T) {
	scans := 200
	if n, err := strconv.Atoi(os.Getenv("SCANS")); err == nil {
		scans = n
	}
	m := lab.StartT(t, lab.Options{Kernel: os.Getenv("KERNEL"), Files: buildFiles(t)})
	s := newScanner(t, m)
	m.ShellT(t, busy) // until the machine ends
	began := time.Now()
	outcomes := make(map[measure.Outcome]int)
	reasons := make(map[string]int)
	m.ConsoleOnFailure(t)
	happened := machineEvents(t, m)
	all := false // that keeps it busy has begun
	for i := range scans {
		before := time.Now()
		r, _ := s.scan(t)
		took := time.Since(before)
		happened(i)
		outcomes[r.Outcome]++
		for _, c := range r.Checks {
			if c.Outcome == measure.NotMeasured {
				reasons[c.Name+": "+c.Reason]++
				t.Logf("scan %d, of %v: %s: %s", i, took.Round(time.Millisecond), c.Name, c.Reason)
			}
		}
		if r.Outcome == measure.Fail {
			t.Errorf("scan %d:\n%s", i, text(r))
			keepMemory(t, m, i)
		}
		if line := kernelDied(t, m); line != "" {
			t.Fatalf("scan %d: nothing counts after this, the kernel has a fault of its own: %s", i, line)
		}
		if done := i + 1; done%20 == 0 || done == scans {
			t.Logf("%d of %d scans in %v: %v", done, scans, time.Since(began).Round(time.Second), outcomes)
			all = answer(t, m) || all
		}
	}
	for reason, n := range reasons {
		t.Logf("not measured %d times: %s", n, reason)
	}
	if !all {
		t.Error("not all that keeps the machine busy has begun, as far as it answers")
	}
	if outcomes[measure.Pass] < scans*3/4 {
		t.Errorf("only %d of %d scans passed", outcomes[measure.Pass], scans)
	}
}

// machineEvents returns what tells what befell the machine since it was called
// last: one that was reset or went off is another than the one that was kept busy.
func machineEvents(t *testing.T, m *lab.Machine) func(scan int) {
	monitor, err := qmp.Dial(t.Context(), m.EventsQMP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { monitor.Close() })
	events := monitor.Subscribe()
	return func(scan int) {
		for {
			select {
			case e, open := <-events.C:
				if !open {
					t.Fatalf("scan %d: no events any more: %v", scan, events.Err())
				}
				if e.Name == "RESET" || e.Name == "SHUTDOWN" || e.Name == "GUEST_PANICKED" {
					t.Errorf("scan %d: %s %s at %v", scan, e.Name, e.Data, e.Time)
				}
			default:
				return
			}
		}
	}
}

// kernelDied is what the machine's kernel said on the console when one of its threads
// came to an end in the middle of its code, which may leave locks held and lists torn.
// A soft lockup is none: it says that the machine got no processor for long.
func kernelDied(t *testing.T, m *lab.Machine) string {
	console, err := os.ReadFile(m.SerialLog)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(console)) {
		if strings.Contains(line, "soft lockup") {
			continue
		}
		for _, sign := range []string{"general protection fault", "BUG: ", "Oops: ", "invalid opcode: ", "stack segment: "} {
			if strings.Contains(line, sign) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

// keepMemory leaves the machine's memory in the directory that KEEP names, for
// whoever looks into a finding.
func keepMemory(t *testing.T, m *lab.Machine, scan int) {
	dir := os.Getenv("KEEP")
	if dir == "" {
		return
	}
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Error(err)
		return
	}
	defer monitor.Close()
	file := fmt.Sprintf("%s/scan-%d.elf", dir, scan)
	if err := monitor.Execute(t.Context(), "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + file}, nil); err != nil {
		t.Error(err)
	}
	t.Logf("memory after scan %d: %s", scan, file)
}

// answer has the guest's agent answer, so that a guest that cannot is helped out,
// and reports whether all that keeps it busy has begun. One that does not answer is
// scanned on: it is short of processors.
func answer(t *testing.T, m *lab.Machine) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "ls /run/busy-all || true")
	if err != nil {
		t.Logf("the guest does not answer: %v", err)
	}
	return strings.Contains(string(out), "busy-all")
}

// TestEnduranceReboots scans a machine all the time while it boots: neither its
// firmware nor a kernel that has not set itself up is ever a finding.
func TestEnduranceReboots(t *testing.T) {
	m := lab.StartT(t, lab.Options{Kernel: os.Getenv("KERNEL"), Files: buildFiles(t)})
	s := newScanner(t, m)
	for boot := range 3 {
		reset(t, m)
		reasons := make(map[string]int)
		for passed := false; !passed; {
			before := time.Now()
			r, _ := s.scan(t)
			passed = r.Outcome == measure.Pass
			if took := time.Since(before); took > 5*time.Second {
				t.Logf("boot %d: a scan took %v: %s", boot, took, text(r))
			}
			if r.Outcome == measure.Fail {
				t.Errorf("boot %d:\n%s", boot, text(r))
			}
			reason, _, _ := strings.Cut(r.Checks[0].Reason, ": CPU")
			reasons[reason]++
		}
		t.Logf("boot %d: %v", boot, reasons)
	}
}

// reset turns the machine off and on, as its button does.
func reset(t *testing.T, m *lab.Machine) {
	t.Helper()
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(t.Context(), "system_reset", nil, nil); err != nil {
		t.Fatal(err)
	}
}
