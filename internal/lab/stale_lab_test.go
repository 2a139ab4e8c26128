//go:build lab

package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// A CPU that runs code which is no longer there: a jump to itself at the start of a
// system call, of which QEMU does not learn that it is taken away, because that is
// done in the file of the guest's RAM.
func TestStaleCodeIsTranslatedAnew(t *testing.T) {
	m := sharedMachine(t)
	m.ConsoleOnFailure(t)
	c := &change{machine: m, journal: t.TempDir() + "/journal"}
	defer c.close()
	at, err := c.symbols(t.Context(), "__x64_sys_acct")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(t.Context(), at[0], []byte{0xeb, 0xfe}); err != nil {
		t.Fatal(err)
	}
	// It keeps its CPU for itself: what the guest agent needs is on the other.
	m.ShellT(t, `taskset -a -p -c 0 $(pidof qemu-ga)
		taskset -c 1 perl -e 'syscall(163, 0)' <&- >/dev/null 2>&1 & echo $! > /run/lab-acct`)
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	there := func() bool {
		text, err := monitor.HMP(t.Context(), "info registers -a")
		if err != nil {
			t.Fatal(err)
		}
		places := make(map[int]map[uint64]bool)
		sampleCPUs(text, places)
		return places[0][at[0]] || places[1][at[0]]
	}
	for !there() { // ends with the test at the latest
	}
	for _, step := range c.undo {
		if err := c.revert(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	m.ShellT(t, "sleep 1; [ -d /proc/$(cat /run/lab-acct) ]") // else this shows nothing
	for there() {
		if err := m.freshenBy(t.Context(), monitor); err != nil {
			t.Fatal(err)
		}
	}
	m.ShellT(t, "while [ -d /proc/$(cat /run/lab-acct) ]; do sleep 0.1; done; rm /run/lab-acct; taskset -a -p -c 0,1 $(pidof qemu-ga)")
}

func TestSampleCPUs(t *testing.T) {
	const text = "CPU#0\nRAX=0 RIP=ffffffff81000010 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n" +
		"CPU#1\nRAX=0 RIP=ffffffff81000020 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n"
	const later = "CPU#0\nRAX=0 RIP=ffffffff81000030 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n" +
		"CPU#1\nRAX=0 RIP=ffffffff81000020 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n" +
		"CPU#2\nRAX=0 RIP=0000000000401000 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0\n"
	places := make(map[int]map[uint64]bool)
	sampleCPUs(text, places)
	sampleCPUs(later, places)
	want := map[int]map[uint64]bool{0: {0xffffffff81000010: true, 0xffffffff81000030: true}, 1: nil, 2: nil}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Error(diff)
	}
}
