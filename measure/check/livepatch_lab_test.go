//go:build lab

package check_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// TestAcceptsLivepatch: a live patch is told, with the function that it replaces
// and where that now goes, and its own text is that of its file, with the
// relocations that the live patching core applies.
func TestAcceptsLivepatch(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	if err := m.Tamper(t.Context(), "livepatch"); err != nil {
		t.Fatal(err)
	}
	r, _ := s.scan(t)
	if err := m.Restore(t.Context(), "livepatch"); err != nil {
		t.Fatal(err)
	}
	if r.Outcome != measure.Pass {
		t.Fatalf("a live patch is a finding:\n%s", text(r))
	}
	told := false
	for _, note := range find(t, r, "linux.text").Notes {
		told = told || note.Symbol == "cmdline_proc_show" && strings.Contains(note.Observed, lab.LivepatchName+":lab_replacement")
	}
	if !told {
		t.Errorf("no note tells the live patch:\n%s", text(r))
	}
}
