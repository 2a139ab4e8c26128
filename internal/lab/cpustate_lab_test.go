//go:build lab

package lab

import "testing"

// QEMU leaves a copy of a CPU's state behind when the CPU is started anew.
func TestCPUStatesAreNoCopies(t *testing.T) {
	m := sharedMachine(t)
	c := &change{machine: m}
	defer c.close()
	entries, err := c.symbols(t.Context(), "entry_SYSCALL_64", "entry_SYSCALL_compat")
	if err != nil {
		t.Fatal(err)
	}
	before, err := m.cpuStates(t.Context(), entries[0], entries[1])
	if err != nil {
		t.Fatal(err)
	}
	for copied := false; !copied; { // the copy may be overwritten at once
		m.ShellT(t, "cd /sys/devices/system/cpu/cpu1; echo 0 > online; echo 1 > online")
		found, err := m.likeStates(entries[0], entries[1])
		if err != nil {
			t.Fatal(err)
		}
		copied = len(found) > m.CPUs
	}
	after, err := m.cpuStates(t.Context(), entries[0], entries[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 2 || before[0] == before[1] || [2]uint64(before) != [2]uint64(after) {
		t.Errorf("states at %#x, then at %#x", before, after)
	}
}
