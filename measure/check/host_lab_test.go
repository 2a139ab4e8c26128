//go:build lab

package check_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// unseenInside are the checks that need control registers.
var unseenInside = []string{"linux.registers", "linux.gdt"}

// changingInside are the checks that look at pages which others write all the time:
// data with pointers, and the memory of text that was given back, which may belong
// to the very program that measures.
var changingInside = []string{"linux.pointers", "modules.pointers", "linux.init"}

// TestInsideAgrees has the machine measure itself with "plumbline measure --host"
// between two scans from outside: the verdicts are the same and so is what was
// seen. Then the machine's memory is changed, and what it said of itself before
// is a lie.
//
// Its observations are judged here, with the pages that were seen from outside:
// if it had seen others, they would be missing. Checks of changingInside are left out.
func TestInsideAgrees(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	s.putProgram(t, m)
	before := s.outside(t)
	inside := measureInside(t, m)
	after := s.outside(t)
	report, err := s.judgeInside(before, inside, after)
	// The kernel patches its text now and then, on a slow machine between all
	// three looks at it.
	for range 4 {
		var patched *check.MissingPagesError
		if !errors.As(err, &patched) {
			break
		}
		before, inside, after = after, measureInside(t, m), s.outside(t)
		report, err = s.judgeInside(before, inside, after)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		want := measure.Pass
		if slices.Contains(unseenInside, c.Name) {
			want = measure.NotMeasured
		}
		if c.Outcome != want {
			t.Errorf("%s: %s (%s), want %s: %+v", c.Name, c.Outcome, c.Reason, want, c.Findings)
		}
	}
	c := check.CompareViews(inside, before.Observations, after.Observations)
	if c.Outcome != measure.Pass || c.Coverage.Objects < 6000 { // text and read-only data are 5,869 pages
		t.Errorf("%s (%s), %d compared: %+v", c.Outcome, c.Reason, c.Coverage.Objects, c.Findings)
	}

	for _, tamper := range []string{"syscall-table", "kernel-text"} {
		if err := m.Tamper(t.Context(), tamper); err != nil {
			t.Fatal(err)
		}
		hidden := s.outside(t)
		if err := m.Restore(t.Context(), tamper); err != nil {
			t.Fatal(err)
		}
		if c := check.CompareViews(inside, hidden.Observations); c.Outcome != measure.Fail {
			t.Errorf("%s, which the machine does not show: %s (%s)", tamper, c.Outcome, c.Reason)
		}
	}
}

// judgeInside judges what the machine saw of itself, but for changingInside, with
// the pages that were seen from outside before and after. An error names the checks.
func (s *scanner) judgeInside(before *check.Result, inside *measure.Observations, after *check.Result) (*measure.Report, error) {
	var checks []string
	for _, item := range inside.Items {
		if !slices.Contains(changingInside, item.Check) {
			checks = append(checks, item.Check)
		}
	}
	pages := maps.Clone(before.Pages)
	maps.Copy(pages, after.Pages)
	refs := &check.References{Images: s, Modules: s, Pages: pages, Checks: checks}
	report, err := check.Judge(inside, refs)
	if err == nil {
		return report, nil
	}
	for _, name := range checks {
		refs.Checks = []string{name}
		if _, alone := check.Judge(inside, refs); alone != nil {
			err = fmt.Errorf("%w\n%s: %w", err, name, alone)
		}
	}
	return nil, err
}

// putProgram puts this program into the machine.
func (s *scanner) putProgram(t *testing.T, m *lab.Machine) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "plumbline")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", program, "../../cmd/plumbline")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := m.Put(t.Context(), program, "/tmp/plumbline"); err != nil {
		t.Fatal(err)
	}
	m.ShellT(t, "modprobe msr")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		defer cancel()
		if _, err := m.Shell(ctx, "rm -f /tmp/plumbline /tmp/inside; modprobe -r msr"); err != nil {
			t.Error(err)
		}
	})
}

// measureInside returns what the machine saw of itself. It has no file of its
// kernel there, so that its own report is incomplete.
func measureInside(t *testing.T, m *lab.Machine) *measure.Observations {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	result, err := m.Exec(ctx, "/tmp/plumbline", "measure", "--host", "--write-observations", "/tmp/inside")
	if err != nil {
		t.Fatal(err)
	}
	if result.ExitCode != 40 {
		t.Fatalf("exit %d\n%s%s", result.ExitCode, result.Stdout, result.Stderr)
	}
	obs, err := measure.DecodeObservations([]byte(m.ShellT(t, "cat /tmp/inside")))
	if err != nil {
		t.Fatal(err)
	}
	return obs
}

// outside scans through QEMU.
func (s *scanner) outside(t *testing.T) *check.Result {
	t.Helper()
	vm, err := qemu.Open(t.Context(), s.machine.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	result, err := check.Scan(t.Context(), vm, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result
}
