package verifier

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// Logs that grew or were rotated since the baseline was taken are told from those that
// were altered by what the agent was asked to look for; what it did not look for is not
// measured, and no pass.
func TestRescanFollowsLogs(t *testing.T) {
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	var err error
	w.rules, err = filewatch.ParseRules([]byte("[[rule]]\npath = \"/var/log/**\"\nlevel = \"verify\"\ncheck = [\"growing\", \"owner\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/var/log/syslog", 1, "line 1\n"), file("/var/log/auth.log", 2, "root\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.event(filewatch.OpExec, file("/bin/true", 3, "x"))
	w.seq += 2
	w.event(filewatch.OpExec, file("/bin/true", 3, "x"))
	command := w.agent.command(remote.CommandRescan)
	if len(command.Logs) != 2 || string(command.Logs[1].Path) != "/var/log/syslog" {
		t.Fatalf("the agent is asked to look for %+v", command.Logs)
	}
	unmeasured := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("unmeasured logs to be told: %v", want), func() bool {
			m := r.machine(t, "vm1")
			told := slices.ContainsFunc(m.Reasons, func(s string) bool { return strings.Contains(s, "could not be compared") })
			return told == want && (m.Files.Unmeasured > 0) == want && m.State != remote.StateTrusted
		})
	}

	// An agent of before looks for nothing.
	w.capture(command.ID, file("/var/log/syslog", 1, "line 1\nline 2\n"), file("/var/log/auth.log", 2, "root\nroot\n"))
	unmeasured(true)
	r.violations(t, 0)

	w.logs = command.Logs
	w.capture(0, file("/var/log/syslog.1", 1, "line 1\nline 2\n"), file("/var/log/syslog", 5, "new\n"), file("/var/log/auth.log", 2, "root\nroot\n"))
	unmeasured(false)
	r.violations(t, 0)

	w.capture(0, file("/var/log/syslog.1", 1, "line 1\nline 2\n"), file("/var/log/syslog", 5, "new\n"), file("/var/log/auth.log", 2, "toor\nroot\n"))
	r.violations(t, 1)
	if m := r.machine(t, "vm1"); m.Review[0].Subject != "/var/log/auth.log" {
		t.Errorf("review: %+v", m.Review)
	}
}

// While events look like a log's rotation nothing is called wrong and nothing right: a
// rescan tells, and another one of what came meanwhile.
func TestEventsOfRotationWaitForARescan(t *testing.T) {
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	var err error
	w.rules, err = filewatch.ParseRules([]byte("[[rule]]\npath = \"/var/log/**\"\nlevel = \"verify\"\ncheck = [\"growing\", \"owner\", \"mode\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/var/log/syslog", 1, "line 1\n"), file("/var/log/auth.log", 2, "root\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	waits := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("a suspected rotation: %v", want), func() bool {
			return slices.ContainsFunc(r.machine(t, "vm1").Reasons, func(s string) bool { return strings.Contains(s, "moved aside or cut") }) == want
		})
	}
	moved := file("/var/log/syslog.1", 1, "line 1\nline 2\n")
	w.settle(w.rename("/var/log/syslog", moved), moved)
	r.judgedAs(t, "/var/log/syslog", remote.VerdictUnknown)
	waits(true)
	r.violations(t, 0)
	command := w.agent.command(remote.CommandRescan)
	// The log that was cut meanwhile was cut after the snapshot.
	cut := file("/var/log/auth.log", 2, "")
	w.settle(w.event(filewatch.OpTruncate, cut), cut)
	r.judgedAs(t, "/var/log/auth.log", remote.VerdictUnknown)
	w.logs = command.Logs
	w.capture(command.ID, moved, file("/var/log/syslog", 5, "new\n"), file("/var/log/auth.log", 2, "root\n"))
	second := w.agent.command(remote.CommandRescan)
	waits(true)
	r.violations(t, 0)
	w.capture(0, moved) // what nobody asked for ends no suspicion; all the same it is compared
	r.violations(t, 1)
	w.capture(second.ID, moved, file("/var/log/syslog", 5, "new\n"), cut)
	waits(false)
	r.violations(t, 1)
	if m := r.machine(t, "vm1"); m.Review[0].Subject != "/var/log/auth.log" {
		t.Errorf("review: %+v", m.Review)
	}
	// What rotation does not do is told at once.
	given := file("/var/log/syslog", 5, "new\n")
	given.UID = 1000
	w.settle(w.event(filewatch.OpChown, given), given)
	r.violations(t, 2)
}
