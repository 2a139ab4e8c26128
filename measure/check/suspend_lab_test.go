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

// A machine that is asleep (s2idle) is measured as it is, and after it woke up
// as well. What wakes it is the power button: the alarm of QEMU's clock does not,
// and "system_wakeup" is for S3 only, which this machine's firmware does not have.
func TestAcceptsSuspend(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	m.ShellT(t, `rm -f /run/lab-awake; grep -q s2idle /sys/power/mem_sleep
		(sleep 0.5; echo freeze > /sys/power/state; echo $? > /run/lab-awake) <&- >/dev/null 2>&1 &`)
	time.Sleep(5 * time.Second) // on a slow machine the first scan may see it on its way
	asleep, _ := s.scan(t)
	if err := wake(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	awake, _ := s.scan(t)
	for when, r := range map[string]*measure.Report{"asleep": asleep, "awake again": awake} {
		if r.Outcome != measure.Pass {
			t.Errorf("%s:\n%s", when, text(r))
		}
	}
}

// wakes bounds how often the button is pressed: once more where the machine had
// not yet fallen asleep.
const wakes = 30

// wake presses the power button until the machine has been asleep and is awake.
func wake(ctx context.Context, m *lab.Machine) error {
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	for range wakes {
		if err := monitor.Execute(ctx, "system_powerdown", nil, nil); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		status, err := m.Shell(short, "sleep 1; cat /run/lab-awake && rm /run/lab-awake")
		cancel()
		if err == nil && status == "0\n" {
			return nil
		}
	}
	return errors.New("the machine did not sleep, or did not wake up")
}
