//go:build lab

package check_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
)

// suspend puts the machine to sleep and notes what came of it once it is awake.
// What the power button does otherwise, which is to power off, is out of the way
// until then: it may be pressed once more than is needed.
const (
	suspend = `grep -q s2idle /sys/power/mem_sleep || exit 1
		rm -f /run/lab-awake
		[ ! -e /run/acpid.pid ] || { kill $(cat /run/acpid.pid) && rm -f /run/acpid.pid; }
		(sleep 0.5; echo freeze > /sys/power/state; echo $? > /run/lab-awake) <&- >/dev/null 2>&1 &`
	suspended = `/bin/busybox acpid -l /run/log/acpid -p /run/acpid.pid <&- >/dev/null 2>&1; rm /run/lab-awake`
)

// A machine that is asleep (s2idle) is measured as it is, and after it woke up
// as well. What wakes it is the power button: the alarm of QEMU's clock does not,
// and "system_wakeup" is for S3 only, which this machine's firmware does not have.
func TestAcceptsSuspend(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	m.ShellT(t, suspend)
	time.Sleep(5 * time.Second) // on a slow machine the first scan may see it on its way
	asleep, _ := s.scan(t)
	if err := wake(t, m); err != nil {
		t.Fatal(err)
	}
	awake, _ := s.scan(t)
	for when, r := range map[string]*measure.Report{"asleep": asleep, "awake again": awake} {
		if r.Outcome != measure.Pass {
			t.Errorf("%s:\n%s", when, text(r))
		}
	}
	m.ShellT(t, suspended)
}

// wakes bounds how often the button is pressed: once more where the machine had
// not yet fallen asleep.
const wakes = 30

// wake presses the power button until the machine has been asleep and is awake.
// One that was on its way to sleep when it was pressed goes back to sleep.
func wake(t *testing.T, m *lab.Machine) error {
	t.Helper()
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	for range wakes {
		if err := monitor.Execute(t.Context(), "system_powerdown", nil, nil); err != nil {
			return err
		}
		// Asleep it does not answer. Where the time is too short for a slow one the
		// question does no harm, nor does the next press.
		short, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		status, err := m.Shell(short, "sleep 1; cat /run/lab-awake 2>/dev/null || echo not yet")
		cancel()
		switch {
		case err == nil && status == "0\n":
			return nil
		case err == nil && status != "not yet\n":
			t.Logf("the machine did not fall asleep: %q", status)
			m.ShellT(t, suspend)
		}
	}
	return errors.New("the machine did not sleep, or did not wake up")
}
