//go:build lab

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// lockedDown has the machine measure itself before and after it locks itself down
// for confidentiality, which only a reboot undoes: then nothing of it is measured,
// and the report says why.
func lockedDown(t *testing.T, m *lab.Machine) {
	inside := func(wantExit int) measure.Check {
		t.Helper()
		result, err := m.Exec(t.Context(), "/opt/plumbline/plumbline", "measure", "--host", "--check", "linux.modules", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var report measure.Report
		if err := json.Unmarshal(result.Stdout, &report); err != nil || len(report.Checks) != 1 || result.ExitCode != wantExit {
			t.Fatalf("exit %d, %v\n%s%s", result.ExitCode, err, result.Stdout, result.Stderr)
		}
		return report.Checks[0]
	}
	if c := inside(0); c.Outcome != measure.Pass {
		t.Errorf("before: %s (%s)", c.Outcome, c.Reason)
	}
	m.ShellT(t, "echo confidentiality > /sys/kernel/security/lockdown")
	if c := inside(exitIncomplete); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "locked down for confidentiality") {
		t.Errorf("locked down: %s (%s)", c.Outcome, c.Reason)
	}
}
