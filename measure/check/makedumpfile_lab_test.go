//go:build lab

package check_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
)

// TestMakedumpfilesDumpsAgree has makedumpfile make, of a dump of the machine, what
// kdump keeps of a crash: without pages that are free, or hold only what user mode
// has. What is observed is the same. Memory that was left out is not there: it is
// no zeros, and the check that needs it is not measured.
func TestMakedumpfilesDumpsAgree(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	whole := dumpForMakedumpfile(t, m)
	all, err := dump.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	live, want := s.observe(t, all)
	coreInfo := filepath.Join(t.TempDir(), "vmcoreinfo")
	if err := os.WriteFile(coreInfo, coreInfoOf(t, m, all), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]string{"kdump, zlib": {"-c"}, "kdump, flattened, lzo": {"-F", "-l"}, "elf": {"-E"}} {
		t.Run(name, func(t *testing.T) {
			d, err := dump.Open(makedumpfile(t, whole, coreInfo, options...))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			missing := leftOut(all.Memory(), d.Memory())
			if missing == 0 {
				t.Fatal("nothing was left out")
			}
			if err := d.Memory().ReadPhys(make([]byte, 8), missing); !errors.Is(err, mem.ErrNotMapped) {
				t.Errorf("page at %v, which was left out: %v", missing, err)
			}
			observed, got := s.observe(t, d)
			for _, item := range live.Items {
				have, should := find(t, got, item.Check), find(t, want, item.Check)
				// The memory of init code is free, so left out, unless all that
				// is looked at of it was given to others meanwhile.
				if item.Check == "linux.init" && have.Outcome == measure.NotMeasured && strings.Contains(have.Reason, "could not be read") {
					continue
				}
				if have.Outcome != should.Outcome {
					t.Errorf("%s: %s (%s), want %s", item.Check, have.Outcome, have.Reason, should.Outcome)
				}
				if item.Check == "linux.objects" && lostFew(live.Item(item.Check), observed.Item(item.Check)) {
					continue
				}
				if diff := cmp.Diff(live.Item(item.Check), observed.Item(item.Check)); diff != "" {
					t.Errorf("%s differs from the whole dump: %s", item.Check, diff)
				}
			}
		})
	}
}

// lostFew reports whether a walk that differs from that of the whole dump came to
// no more objects, a few less, and says what could not be read: the kernel leaves
// pointers in its objects to what it has freed, and a page that is free is left out.
func lostFew(whole, some *measure.Observation) bool {
	lost := whole.Coverage.Objects - some.Coverage.Objects
	return lost >= 0 && lost <= whole.Coverage.Objects/1000 && bytes.Contains(some.Data, []byte(" in memory that could not be read ("))
}

// dumpForMakedumpfile has QEMU dump the machine. QEMU 7.2 puts the program headers
// after a section header; makedumpfile 1.7.2 wants them behind the file's header.
func dumpForMakedumpfile(t *testing.T, m *lab.Machine) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whole")
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(t.Context(), "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + path, "format": "elf"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	const header, programHeader = 64, 56
	from, count := binary.LittleEndian.Uint64(head[32:]), binary.LittleEndian.Uint16(head[56:])
	first := binary.LittleEndian.Uint64(head[from+8:]) // offset of the notes, which come first
	if end := uint64(header + programHeader*int(count)); from < header || end > first {
		t.Fatalf("%d program headers at %#x, the first for %#x", count, from, first)
	}
	copy(head[header:], bytes.Clone(head[from:][:programHeader*int(count)]))
	binary.LittleEndian.PutUint64(head[32:], header)
	binary.LittleEndian.PutUint64(head[40:], 0) // no sections
	copy(head[58:], make([]byte, 6))
	if _, err := f.WriteAt(head[:first], 0); err != nil {
		t.Fatal(err)
	}
	return path
}

// coreInfoOf is the kernel's description of itself, where it says that it is.
func coreInfoOf(t *testing.T, m *lab.Machine, d *dump.Dump) []byte {
	t.Helper()
	var at, size uint64
	if _, err := fmt.Sscanf(m.ShellT(t, "cat /sys/kernel/vmcoreinfo"), "0x%x %x", &at, &size); err != nil {
		t.Fatal(err)
	}
	note := make([]byte, size)
	if err := d.Memory().ReadPhys(note, mem.Phys(at)); err != nil {
		t.Fatal(err)
	}
	_, text, ok := bytes.Cut(note, []byte("OSRELEASE="))
	if !ok {
		t.Fatalf("no VMCOREINFO at %#x", at)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return append([]byte("OSRELEASE="), text...)
}

// makedumpfile leaves out zeros, the cache of files, user mode's memory and what is
// free (-d 31).
func makedumpfile(t *testing.T, whole, coreInfo string, options ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dump")
	arguments := append(slices.Clone(options), "-d", "31", "-i", coreInfo, whole)
	cmd := exec.CommandContext(t.Context(), "makedumpfile", arguments...)
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &messages, &messages
	if slices.Contains(options, "-F") { // to its output
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdout = f
	} else {
		cmd.Args = append(cmd.Args, out)
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("makedumpfile: %v\n%s", err, &messages)
	}
	return out
}

// leftOut finds a page that one source has and another has not.
func leftOut(all, some mem.Reader) mem.Phys {
	at := func(extents []mem.Extent, page mem.Phys) bool {
		return slices.ContainsFunc(extents, func(e mem.Extent) bool { return e.Contains(page, mem.PageSize) })
	}
	for _, e := range all.Extents() {
		for page := max(e.Start, 1<<20); page < e.End(); page += mem.PageSize {
			if !at(some.Extents(), page) {
				return page
			}
		}
	}
	return 0
}
