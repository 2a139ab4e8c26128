package lab

import "testing"

// Of all that a kernel dies of only a breakpoint that nobody set is QEMU's fault.
func TestStartErrorIsStale(t *testing.T) {
	for serial, want := range map[string]bool{
		"[    1.744701] Oops: int3: 0000 [#2] SMP PTI\n[    1.745045] Kernel panic - not syncing: Fatal exception in interrupt": true,
		"[    1.7] Oops: general protection fault: 0000 [#1] SMP PTI\n[    1.8] Kernel panic - not syncing: Fatal exception":    false,
		"": false,
	} {
		if got := (&StartError{Serial: serial}).stale(); got != want {
			t.Errorf("%q: %t", serial, got)
		}
	}
}
