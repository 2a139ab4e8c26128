//go:build lab

package check_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// The registers of system calls are read without a stop once QEMU's device state
// has shown where they are, and say what a new device state says, after a change
// as before.
func TestReadsSystemCallsWithoutStopping(t *testing.T) {
	m := sharedMachine(t)
	var places qemu.Places
	read := func(places *qemu.Places) (calls []mem.SystemCalls, stopped bool) {
		t.Helper()
		vm, err := qemu.Open(t.Context(), m.QMP)
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Close()
		vm.Remember(places)
		if calls, err = vm.SystemCalls(t.Context()); err != nil {
			t.Fatal(err)
		}
		return calls, vm.PausedFor() > 0
	}
	if _, stopped := read(&places); !stopped {
		t.Error("the machine was not stopped although nothing was known of it")
	}
	for _, tamper := range []string{"", "msr-lstar", "msr-sysenter", "msr-fmask", ""} {
		if tamper != "" {
			if err := m.Tamper(t.Context(), tamper); err != nil {
				t.Fatal(err)
			}
		}
		got, stopped := read(&places)
		want, _ := read(nil)
		if tamper != "" {
			if err := m.Restore(t.Context(), tamper); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, got); stopped || diff != "" {
			t.Errorf("after %q: stopped %v (-device state +remembered):\n%s", tamper, stopped, diff)
		}
	}
}
