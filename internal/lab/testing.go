package lab

import (
	"context"
	"errors"
	"testing"
	"time"
)

// StartT starts a machine for a test and takes it down at the test's end. A
// machine that does not start fails the test: lab tests never skip.
func StartT(t testing.TB, o Options) *Machine {
	t.Helper()
	if o.Log == nil {
		o.Log = testLog{t}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute) // the image may have to be built
	defer cancel()
	m, err := Start(ctx, o)
	for range 2 {
		if died := (*StartError)(nil); !errors.As(err, &died) || !died.stale() {
			break
		}
		t.Logf("started again, for QEMU had the kernel run a breakpoint that it had taken away: %v", err)
		m, err = Start(ctx, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("take the machine down: %v", err)
		}
	})
	return m
}

// ShellT is Shell for tests: a script that fails ends the test.
func (m *Machine) ShellT(t testing.TB, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, script)
	if err != nil {
		t.Fatalf("in the guest: %s: %v", script, err)
	}
	return out
}

// ConsoleOnFailure logs the end of the serial console if the test fails: a machine
// that does not answer any more seldom says why elsewhere.
func (m *Machine) ConsoleOnFailure(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the serial console:\n%s", fileTail(m.SerialLog, 60))
		}
	})
}

// testLog passes progress on to the test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Logf("lab: %s", p)
	return len(p), nil
}
