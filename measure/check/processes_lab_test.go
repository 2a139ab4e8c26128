//go:build lab

package check_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// A process that nothing lists and that never gets the CPU it waits for is seen
// where it waits.
func TestDetectsQueuedRealTimeProcess(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	const name = "process-hidden-realtime"
	if err := m.Tamper(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	r, _ := s.scan(t, "linux.processes")
	if err := m.Restore(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range find(t, r, "linux.processes").Findings {
		found = found || strings.Contains(f.Explanation, "real-time run queue")
	}
	if !found {
		t.Errorf("no finding by the queue:\n%s", text(r))
	}
}

// waiting are processes of the real-time and the deadline class which want a CPU
// nearly all the time, and get it for a fraction.
const (
	waiting = `set -e
		rm -f /run/lab-busy
		cat /proc/sys/kernel/sched_rt_runtime_us > /run/lab-busy-runtime
		echo 500000 > /proc/sys/kernel/sched_rt_runtime_us
		run() { "$@" sh -c 'while :; do :; done' <&- >&- 2>&- & echo $! >> /run/lab-busy; }
		run chrt -f 1
		run chrt -r 2
		run chrt -d --sched-runtime 20000000 --sched-deadline 100000000 --sched-period 100000000 0`
	waitingStop = `for pid in $(cat /run/lab-busy); do kill $pid; while [ -d /proc/$pid ]; do sleep 0.2; done; done
		cat /run/lab-busy-runtime > /proc/sys/kernel/sched_rt_runtime_us
		rm /run/lab-busy /run/lab-busy-runtime`
)

// Processes of other classes than the normal one are seen where they wait, and no
// finding.
func TestAcceptsQueuedProcesses(t *testing.T) {
	m := sharedMachine(t)
	m.ShellT(t, waiting)
	defer m.ShellT(t, waitingStop)
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	checks := []string{"linux.processes"}
	missing := map[string]bool{"fair": true, "real-time": true, "deadline": true, "stop": true}
	for began := time.Now(); len(missing) > 0 && time.Since(began) < 5*time.Minute; {
		result, err := check.Scan(t.Context(), vm, &check.Options{Target: vm.Target(), Checks: checks})
		if err != nil {
			t.Fatal(err)
		}
		r := judge(t, result.Observations, &check.References{Checks: checks})
		if c := find(t, r, checks[0]); c.Outcome != measure.Pass || c.Reason != "" {
			t.Fatalf("processes that wait are a finding:\n%s", text(r))
		}
		for _, item := range result.Observations.Items {
			var data struct {
				By map[string]int `json:"queued_by"`
			}
			if item.Check != checks[0] {
				continue
			}
			if err := json.Unmarshal(item.Data, &data); err != nil {
				t.Fatal(err)
			}
			for class, n := range data.By {
				if n > 0 {
					delete(missing, class)
				}
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("nothing was seen in the queues of %v", missing)
	}
}
