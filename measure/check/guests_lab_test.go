//go:build lab

package check_test

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// TestGuestsOfTheTarget scans a machine that runs guests, and one on which they come
// and go: what they have is never judged as the machine's.
func TestGuestsOfTheTarget(t *testing.T) {
	acceptsGuests(t, newScanner(t, sharedMachine(t)), measure.Pass)
}

// acceptsGuests demands that no scan fails and some have the best outcome that there
// is.
func acceptsGuests(t *testing.T, s *scanner, best measure.Outcome) {
	for _, how := range []string{"spin io hlt", "-churn spin io hlt"} {
		t.Run(how, func(t *testing.T) {
			runGuests(t, s.machine, how)
			reached := 0
			for n := 0; n < 5 || reached == 0 && n < 20; n++ {
				r, _ := s.scan(t)
				if r.Outcome == measure.Fail {
					t.Errorf("a guest is a finding:\n%s", text(r))
				}
				if r.Outcome == best {
					reached++
				} else {
					t.Log(text(r))
				}
			}
			if reached == 0 {
				t.Errorf("no scan: %s", best)
			}
			if !s.places.Known() {
				t.Error("each scan has the machine stand still for its device state")
			}
		})
	}
}

// Places in the page that a processor keeps the host's state in (AMD64 APM vol. 2,
// table B-2), and what an attacker would change there for the CPU to come back to
// something else than the kernel.
var hostStateTampers = []struct {
	name, check string
	at          int64
	value       func(old uint64, ram io.ReaderAt) uint64
}{
	{"GDTR", "linux.gdt", 0x468, func(old uint64, _ io.ReaderAt) uint64 { return old + 0x1000 }},
	{"IDTR", "linux.idt", 0x488, func(old uint64, _ io.ReaderAt) uint64 { return old + 0x1000 }},
	{"CR3", "linux.pagetables", 0x550, otherTables},
	{"CR0.WP", "linux.registers", 0x558, func(old uint64, _ io.ReaderAt) uint64 { return old &^ mem.CR0WP }},
	{"CR4.SMEP", "linux.registers", 0x548, func(old uint64, _ io.ReaderAt) uint64 { return old &^ mem.CR4SMEP }},
	{"EFER.NXE", "linux.registers", 0x4d0, func(old uint64, _ io.ReaderAt) uint64 { return old &^ mem.EFERNXE }},
	{"RIP", "linux.registers", 0x578, func(old uint64, _ io.ReaderAt) uint64 { return old + 3 }},
	{"TSS", "linux.gdt", 0x498, func(old uint64, _ io.ReaderAt) uint64 { return old + 0x1000 }},
	{"LSTAR", "linux.msrs", 0x608, func(old uint64, _ io.ReaderAt) uint64 { return old + 5 }},
}

// otherTables is a page whose upper half holds other tables than the kernel's top
// table does: the one that its last entry leads to.
func otherTables(top uint64, ram io.ReaderAt) uint64 {
	var entry [8]byte
	if _, err := ram.ReadAt(entry[:], int64(top&^0xfff)+511*8); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(entry[:]) & 0x000f_ffff_ffff_f000
}

// TestDetectsHostStateTampers changes, while the machine stands still with a CPU in
// a guest, what that CPU goes back to.
func TestDetectsHostStateTampers(t *testing.T) {
	detectsHostStateTampers(t, newScanner(t, sharedMachine(t)))
}

func detectsHostStateTampers(t *testing.T, s *scanner) {
	m := s.machine
	runGuests(t, m, "spin spin")
	_, page := stopInGuest(t, m, 1)
	ram, err := os.OpenFile(m.RAM, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	for _, tamper := range hostStateTampers {
		t.Run(tamper.name, func(t *testing.T) {
			var old, changed [8]byte
			at := int64(page) + tamper.at
			if _, err := ram.ReadAt(old[:], at); err != nil {
				t.Fatal(err)
			}
			was := binary.LittleEndian.Uint64(old[:])
			binary.LittleEndian.PutUint64(changed[:], tamper.value(was, ram))
			if _, err := ram.WriteAt(changed[:], at); err != nil {
				t.Fatal(err)
			}
			r, _ := s.scan(t, tamper.check)
			if _, err := ram.WriteAt(old[:], at); err != nil {
				t.Fatal(err)
			}
			if c := find(t, r, tamper.check); c.Outcome != measure.Fail || len(c.Findings) == 0 {
				t.Errorf("%s did not see %#x for %#x:\n%s", tamper.check, binary.LittleEndian.Uint64(changed[:]), was, text(r))
			}
			if r, _ := s.scan(t, tamper.check); r.Outcome != measure.Pass {
				t.Errorf("after it was undone:\n%s", text(r))
			}
		})
	}
}

// labMonitor is the monitor of a machine by which tests steer it.
type labMonitor struct{ *qmp.Client }

func (l labMonitor) command(t *testing.T, name string, arguments any) {
	t.Helper()
	if err := l.Execute(t.Context(), name, arguments, nil); err != nil {
		t.Fatal(err)
	}
}

// stopInGuest stops the machine while so many of its CPUs, and these for sure, are in
// a guest, until the test ends, and returns where the own state of the last of them is.
func stopInGuest(t *testing.T, m *lab.Machine, least int) (labMonitor, mem.Phys) {
	t.Helper()
	client, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := client.Execute(ctx, "cont", nil, nil); err != nil {
			t.Error(err)
		}
	})
	monitor := labMonitor{client}
	for range 600 {
		monitor.command(t, "stop", nil)
		vm, err := qemu.Open(t.Context(), m.QMP)
		if err != nil {
			t.Fatal(err)
		}
		all, err := vm.Registers(t.Context())
		vm.Close()
		if err != nil {
			t.Fatal(err)
		}
		var in, unread int
		var page mem.Phys
		for _, r := range all {
			if r.Unread() != "" {
				unread++
			} else if r.InGuest() {
				in++
				page = r.Virtualization.HostState
			}
		}
		if in >= least && unread == 0 {
			return monitor, page
		}
		monitor.command(t, "cont", nil)
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%d CPUs were not seen to run a guest", least)
	return monitor, 0
}
