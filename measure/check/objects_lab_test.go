//go:build lab

package check_test

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
)

// churn starts what makes and frees objects all the time: processes, files of
// each kind, modules with their devices, the package database.
const churn = `rm -f /run/lab-churn-stop /run/lab-churn
	loop() { (until [ -e /run/lab-churn-stop ]; do eval "$1"; done) <&- >/dev/null 2>&1 & echo $! >> /run/lab-churn; }
	loop 'ls -R /usr/share; tar -c /usr/bin | wc -c; cat /proc/[0-9]*/maps'
	loop 'for m in dummy tun veth; do modprobe $m; done; for m in veth tun dummy; do modprobe -r $m; done'
	loop 'for i in 1 2 3 4 5 6 7 8; do sh -c "sleep 0.05" & done; wait; dpkg -l'`

// churnStop waits until each loop has come to its end, and has unloaded modules:
// one that had not would go on for good.
const churnStop = `touch /run/lab-churn-stop
	for pid in $(cat /run/lab-churn); do while [ -d /proc/$pid ]; do sleep 0.2; done; done
	rm -f /run/lab-churn-stop /run/lab-churn
	! grep "^dummy\|^tun\|^veth" /proc/modules`

// Objects that come and go while they are read are no findings: fifty scans of
// a busy machine, each with the kernel's files and without.
func TestAcceptsObjectsUnderLoad(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	if _, err := m.Shell(t.Context(), churn); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := m.Shell(t.Context(), churnStop); err != nil {
			t.Error(err)
		}
	}()
	for range 50 {
		with, without := s.scan(t, "linux.objects")
		for _, r := range []*measure.Report{with, without} {
			if c := find(t, r, "linux.objects"); c.Outcome != measure.Pass {
				t.Fatalf("a busy machine is a finding:\n%s", text(r))
			}
		}
	}
}

// The walk reaches what is known to live: a change that loses a class of objects
// shows here. Debian's 6.1 gives 96 of 100.
func TestObjectsCoverage(t *testing.T) {
	with, _ := newScanner(t, sharedMachine(t)).scan(t, "linux.objects")
	c := find(t, with, "linux.objects")
	if c.Outcome != measure.Pass || c.Coverage.Objects*100 < c.Coverage.Total*90 {
		t.Errorf("reached %d of %d:\n%s", c.Coverage.Objects, c.Coverage.Total, text(with))
	}
}
