//go:build lab && matrix

package check_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// busy keeps doing in the guest what honest people and programs do to a kernel,
// each thing at its own pace, for as long as the machine runs.
const busy = `
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
	repeat 'dpkg -i /srv/packages/hello_*.deb; dpkg --purge hello; sleep 1'`

// TestEndurance scans a machine that is kept busy: no honest change is ever a
// finding. A scan during which the machine changed too much may leave checks not
// measured; each reason is logged.
func TestEndurance(t *testing.T) {
	scans := 200
	if n, err := strconv.Atoi(os.Getenv("SCANS")); err == nil {
		scans = n
	}
	m := lab.StartT(t, lab.Options{Files: buildFiles(t)})
	s := newScanner(t, m)
	m.ShellT(t, busy) // until the machine ends
	began := time.Now()
	outcomes := make(map[measure.Outcome]int)
	reasons := make(map[string]int)
	for i := range scans {
		r, _ := s.scan(t)
		outcomes[r.Outcome]++
		for _, c := range r.Checks {
			if c.Outcome == measure.NotMeasured {
				reasons[c.Name+": "+c.Reason]++
			}
		}
		if r.Outcome == measure.Fail {
			t.Errorf("scan %d:\n%s", i, text(r))
		}
		if done := i + 1; done%20 == 0 || done == scans {
			t.Logf("%d of %d scans in %v: %v", done, scans, time.Since(began).Round(time.Second), outcomes)
			m.ShellT(t, "true") // one that does not answer is helped out
		}
	}
	for reason, n := range reasons {
		t.Logf("not measured %d times: %s", n, reason)
	}
	if outcomes[measure.Pass] < scans*3/4 {
		t.Errorf("only %d of %d scans passed", outcomes[measure.Pass], scans)
	}
}
