//go:build lab

package check_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
)

// Checks of a dump: those that judge what each CPU has, those that it has too little
// for, and those that see a process that was being made or ending, as some always may.
var (
	ofEachCPU   = []string{"linux.idt", "linux.gdt", "linux.pagetables"}
	notInADump  = []string{"linux.registers", "linux.msrs"}
	ofTasks     = []string{"linux.processes", "linux.objects", "linux.sockets"}
	mayHaveRun  = "may have run a guest of the target"
	guestsTable = uint64(0x1000) // CR3 of what kvmguest runs
)

// TestDumpsOfGuests measures dumps of a machine that stood still with one CPU, and
// with all, in a guest of its own. What the guest has is never judged, and nothing
// passes by it; all else is as in any dump. Another interrupt table in the CPU that
// runs the kernel is found.
func TestDumpsOfGuests(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	for _, tt := range []struct {
		name, how string
		in        int
		formats   []string
	}{{"one CPU", "spin", 1, []string{"elf", "kdump-zlib"}}, {"all CPUs", "spin spin", 2, []string{"elf"}}} {
		t.Run(tt.name, func(t *testing.T) {
			runGuests(t, m, tt.how)
			monitor, _ := stopInGuest(t, m, tt.in)
			for _, format := range tt.formats {
				path := filepath.Join(t.TempDir(), format)
				arguments := map[string]any{"paging": false, "protocol": "file:" + path, "format": format}
				monitor.command(t, "dump-guest-memory", arguments)
				s.acceptsDumpOfGuests(t, path)
				if format == "elf" && tt.in == 1 {
					plantIDT(t, path)
					r := s.measureDump(t, path)
					if c := find(t, r, "linux.idt"); c.Outcome != measure.Fail {
						t.Errorf("another interrupt table of the CPU beside the one in a guest:\n%s", text(r))
					}
				}
			}
		})
	}
}

func (s *scanner) measureDump(t *testing.T, path string) *measure.Report {
	t.Helper()
	d, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, r := s.observe(t, d)
	return r
}

func (s *scanner) acceptsDumpOfGuests(t *testing.T, path string) {
	t.Helper()
	r := s.measureDump(t, path)
	for _, c := range r.Checks {
		switch {
		case slices.Contains(ofEachCPU, c.Name):
			if c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, mayHaveRun) {
				t.Errorf("%s: %s: %s: %s %+v", filepath.Base(path), c.Name, c.Outcome, c.Reason, c.Findings)
			}
		case slices.Contains(ofTasks, c.Name):
		case c.Outcome == measure.Fail, c.Outcome == measure.Pass && slices.Contains(notInADump, c.Name):
			t.Errorf("%s: %s: %s: %s %+v", filepath.Base(path), c.Name, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// plantIDT gives each CPU of an ELF dump that does not run a guest another interrupt
// table: in its note "QEMU" (QEMU, target/i386/arch_dump.c, struct QEMUCPUState).
func plantIDT(t *testing.T, path string) {
	t.Helper()
	const (
		tables  = 8 + 18*8 + 9*24 // of the state: IDT, after RFLAGS, six segments, LDT, TR and GDT
		baseAt  = tables + 16
		cr3At   = tables + 24 + 3*8
		maximum = 1 << 20 // of the notes
	)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head := make([]byte, maximum)
	if _, err := file.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	planted := 0
	for at := 0; ; {
		i := bytes.Index(head[at:], []byte("QEMU\x00\x00\x00\x00\x01\x00\x00\x00")) // name, and version 1
		if i < 0 {
			break
		}
		at += i + 8
		state := head[at:]
		if binary.LittleEndian.Uint64(state[cr3At:]) == guestsTable {
			continue
		}
		base := binary.LittleEndian.Uint64(state[baseAt:]) + 0x1000
		if _, err := file.WriteAt(binary.LittleEndian.AppendUint64(nil, base), int64(at+baseAt)); err != nil {
			t.Fatal(err)
		}
		planted++
	}
	if planted != 1 {
		t.Fatalf("%d CPUs have another interrupt table now", planted)
	}
}
