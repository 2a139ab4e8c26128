//go:build lab

package check_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// TestDumpsAgree measures one stop of the machine through QEMU and through
// dumps of it: what is observed is the same, digests included, and so are the
// verdicts, of a clean machine and of one whose system call table is hooked.
func TestDumpsAgree(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	t.Run("clean", func(t *testing.T) { s.dumpsAgree(t, m) })
	t.Run("syscall hook", func(t *testing.T) {
		if err := m.Tamper(t.Context(), "syscall-table"); err != nil {
			t.Fatal(err)
		}
		s.dumpsAgree(t, m, "linux.syscalls", "linux.rodata")
		if err := m.Restore(t.Context(), "syscall-table"); err != nil {
			t.Fatal(err)
		}
	})
}

// dumpsAgree compares; failing are the checks that fail in all reports.
func (s *scanner) dumpsAgree(t *testing.T, m *lab.Machine, failing ...string) {
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := monitor.Execute(t.Context(), "cont", nil, nil); err != nil {
			t.Error(err)
		}
	}()
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	live, want := s.observe(t, vm)
	for _, format := range []string{"elf", "kdump-zlib"} {
		path := filepath.Join(t.TempDir(), format)
		arguments := map[string]any{"paging": false, "protocol": "file:" + path, "format": format}
		if err := monitor.Execute(t.Context(), "dump-guest-memory", arguments, nil); err != nil {
			t.Fatal(err)
		}
		d, err := dump.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		observed, got := s.observe(t, d)
		for _, item := range live.Items {
			name := item.Check
			if name == "linux.registers" || name == "linux.msrs" { // a dump has fewer
				continue
			}
			if diff := cmp.Diff(live.Item(name), observed.Item(name)); diff != "" {
				t.Errorf("%s: %s differs from the live machine: %s", format, name, diff)
			}
			outcome := measure.Pass
			if slices.Contains(failing, name) {
				outcome = measure.Fail
			}
			if a, b := find(t, want, name).Outcome, find(t, got, name).Outcome; a != outcome || b != outcome {
				t.Errorf("%s: %s is %s of the live machine and %s of the dump, want %s", format, name, a, b, outcome)
			}
		}
		for _, name := range []string{"linux.registers", "linux.msrs"} {
			if c := find(t, got, name); c.Outcome != measure.NotMeasured {
				t.Errorf("%s: %s: %s", format, name, c.Outcome)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// observe scans and judges with the kernel's files.
func (s *scanner) observe(t *testing.T, target check.Machine) (*measure.Observations, *measure.Report) {
	t.Helper()
	result, err := check.Scan(t.Context(), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result.Observations, judge(t, result.Observations, &check.References{Images: s, Modules: s.modules, Pages: result.Pages})
}
