//go:build lab

package check_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
)

// A program that the kernel is to run for processes that dump core is told, and no
// finding: an administrator may set it. What nobody set is not told.
func TestTellsHelperPaths(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	told := func() bool {
		r, _ := s.scan(t, "linux.pointers")
		c := find(t, r, "linux.pointers")
		if c.Outcome != measure.Pass {
			t.Errorf("%s:\n%s", c.Outcome, text(r))
		}
		return slices.ContainsFunc(c.Notes, func(f measure.Finding) bool {
			return f.Symbol == "core_pattern" && f.Observed == `"|/bin/lab-forged %p"` && f.Expected == `"core"`
		})
	}
	if told() {
		t.Error("told before it was set")
	}
	before := m.ShellT(t, `cat /proc/sys/kernel/core_pattern; echo '|/bin/lab-forged %p' > /proc/sys/kernel/core_pattern`)
	after := told()
	m.ShellT(t, `echo '`+strings.TrimSpace(before)+`' > /proc/sys/kernel/core_pattern`)
	if !after {
		t.Error("not told when it was set")
	}
	if told() {
		t.Error("told when it was set back")
	}
}
