//go:build lab

package check_test

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
)

// hotplug takes the second CPU off line and on again, as fast as the machine can.
const (
	hotplug = `rm -f /run/lab-hotplug-stop
		(until [ -e /run/lab-hotplug-stop ]; do
			echo 0 > /sys/devices/system/cpu/cpu1/online
			echo 1 > /sys/devices/system/cpu/cpu1/online
		done; echo 1 > /sys/devices/system/cpu/cpu1/online; rm /run/lab-hotplug-stop) <&- >/dev/null 2>&1 &`
	hotplugStop = `touch /run/lab-hotplug-stop
		while [ -e /run/lab-hotplug-stop ]; do sleep 0.1; done
		cat /sys/devices/system/cpu/cpu1/online`
)

// ofCPUs are the checks of what each CPU has.
var ofCPUs = []string{"linux.registers", "linux.msrs", "linux.idt", "linux.gdt"}

// A CPU on its way off line and on line again is no finding; what is wrong with
// the one that stays is.
func TestHotplug(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	m.ShellT(t, hotplug)
	defer func() {
		if online := m.ShellT(t, hotplugStop); online[0] != '1' {
			t.Errorf("the second CPU did not come back: %s", online)
		}
	}()
	const scans = 40
	reasons, passed := make(map[string]int), 0
	for range scans {
		r, _ := s.scan(t, ofCPUs...)
		for _, c := range r.Checks {
			reasons[c.Name+" "+string(c.Outcome)+": "+c.Reason]++
		}
		if r.Outcome == measure.Pass {
			passed++
		}
		if r.Outcome == measure.Fail {
			t.Fatalf("a CPU that comes and goes is a finding:\n%s", text(r))
		}
	}
	for reason, n := range reasons {
		t.Logf("%d times %s", n, reason)
	}
	if passed < scans/2 {
		t.Errorf("%d of %d scans measured a machine whose CPU comes and goes", passed, scans)
	}
	for _, tamper := range []string{"gdt-call-gate", "cr4-smep"} {
		if err := m.Tamper(t.Context(), tamper); err != nil {
			t.Fatal(err)
		}
		r, _ := s.scan(t, ofCPUs...)
		if err := m.Restore(t.Context(), tamper); err != nil {
			t.Fatal(err)
		}
		if r.Outcome != measure.Fail {
			t.Errorf("%s was not seen:\n%s", tamper, text(r))
		}
	}
}
