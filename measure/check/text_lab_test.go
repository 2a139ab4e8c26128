//go:build lab

package check_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// TestTextOnTheMachine runs on one machine, with one CPU: its text has no lock
// prefixes. The machines of the other tests have two.
func TestTextOnTheMachine(t *testing.T) {
	m := lab.StartT(t, lab.Options{CPUs: 1})
	s := newScanner(t, m)
	t.Run("TestDetectsTextPatch", func(t *testing.T) { detectsTextPatch(t, m, s) })
	t.Run("TestAcceptsFtraceToggle", func(t *testing.T) { acceptsFtraceToggle(t, m, s) })
}

// detectsTextPatch: an attacker changes code of the kernel, or of KVM, in
// memory. The finding names the function and the bytes.
func detectsTextPatch(t *testing.T, m *lab.Machine, s *scanner) {
	for _, attack := range []struct{ tamper, check, symbol string }{
		{"kernel-text", "linux.text", "__x64_sys_acct"},
		{"kvm-amd-text", "modules.text", "kvm_amd:svm_hardware_unsetup"},
	} {
		t.Run(attack.tamper, func(t *testing.T) {
			if err := m.Tamper(t.Context(), attack.tamper); err != nil {
				t.Fatal(err)
			}
			r, _ := s.scan(t)
			if err := m.Restore(t.Context(), attack.tamper); err != nil {
				t.Fatal(err)
			}
			c := find(t, r, attack.check)
			if c.Outcome != measure.Fail || len(c.Findings) != 1 {
				t.Fatalf("%s", text(r))
			}
			f := c.Findings[0]
			name, _, _ := strings.Cut(f.Symbol, "+")
			if name != attack.symbol || len(f.Observed) != 2 || len(f.Expected) != 2 || f.Observed == f.Expected || f.Address == "" {
				t.Errorf("finding %+v, want one byte of %s", f, attack.symbol)
			}
		})
	}
}

// acceptsFtraceToggle is the benign twin: tracing a function changes its
// code in the same way and is told, not failed.
func acceptsFtraceToggle(t *testing.T, m *lab.Machine, s *scanner) {
	r, _ := s.scan(t)
	if r.Outcome != measure.Pass || len(find(t, r, "linux.text").Notes) != 0 {
		t.Fatalf("untouched machine with one CPU:\n%s", text(r))
	}
	if err := m.Tamper(t.Context(), "ftrace"); err != nil {
		t.Fatal(err)
	}
	r, _ = s.scan(t)
	c := find(t, r, "linux.text")
	if c.Outcome != measure.Pass {
		t.Fatalf("%s", text(r))
	}
	told := false
	for _, note := range c.Notes {
		told = told || strings.HasPrefix(note.Explanation, "traced by ftrace: ") && note.Symbol == "do_sys_openat2"
	}
	if !told {
		t.Errorf("no note says that do_sys_openat2 is traced: %+v", c.Notes)
	}
	if err := m.Restore(t.Context(), "ftrace"); err != nil {
		t.Fatal(err)
	}
	if r, _ := s.scan(t); r.Outcome != measure.Pass || len(find(t, r, "linux.text").Notes) > 2 {
		t.Errorf("after tracing:\n%s", text(r))
	}
}
