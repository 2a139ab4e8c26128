package verifier

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// watched starts a verifier with a watched target and its first baseline.
func watched(t *testing.T, files ...*diskFile) (*running, *watch) {
	t.Helper()
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, files...)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	return r, w
}

// judgedAs waits until the newest event about path has a verdict.
func (r *running) judgedAs(t *testing.T, path, verdict string) {
	t.Helper()
	eventually(t, "the verdict "+verdict+" on "+path, func() bool {
		for _, e := range r.machine(t, "vm1").Events {
			if e.Path == path {
				return e.Verdict == verdict
			}
		}
		return false
	})
}

func (r *running) violations(t *testing.T, want int) {
	t.Helper()
	eventually(t, "the number of violations", func() bool { return r.machine(t, "vm1").Files.Violations == want })
}

func TestDetectsChangedContent(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"))
	n := w.event(filewatch.OpWrite, file("/usr/bin/env", 2, "x"))
	w.settle(n, file("/usr/bin/env", 2, "evl")) // same size, times put back
	r.judgedAs(t, "/usr/bin/env", remote.VerdictChanged)
	m := r.machine(t, "vm1")
	if m.State != remote.StateUntrusted || len(m.Review) != 1 || m.Review[0].Subject != "/usr/bin/env" {
		t.Errorf("the machine is %s, review %+v", m.State, m.Review)
	}
	// Put back, the item closes by itself.
	n = w.event(filewatch.OpWrite, file("/usr/bin/env", 2, "x"))
	w.settle(n, file("/usr/bin/env", 2, "elf"))
	r.violations(t, 0)
	if items, err := r.client.Reviews(t.Context(), reviewRestored); err != nil || len(items) != 1 {
		t.Errorf("restored items: %+v, %v", items, err)
	}
}

// quiet fails when anything about the files of vm1 was told as an alert.
func (r *running) quiet(t *testing.T) {
	t.Helper()
	m := r.machine(t, "vm1")
	if len(m.Review) > 0 || m.Files.Violations > 0 {
		t.Errorf("review: %+v", m.Review)
	}
	for _, moment := range m.Timeline {
		if moment.Kind == "file" && moment.Severity == remote.SeverityAlert {
			t.Errorf("false alarm: %s", moment.Text)
		}
	}
}

// A file that is truncated and written anew with what it held is unchanged,
// and nobody is alarmed in between. What an event does not carry (links, flags,
// attributes) is not taken for different.
func TestAcceptsRewriteWithTheSameContent(t *testing.T) {
	linked := file("/usr/bin/env", 2, "elf")
	linked.Nlink, linked.Flags = 3, 0x80000
	linked.Xattrs = []filewatch.Xattr{{Name: "security.ima", Value: []byte{1}}}
	r, w := watched(t, linked)
	empty := *linked
	empty.Size = 0
	w.event(filewatch.OpTruncate, &empty)
	w.event(filewatch.OpExec, linked)
	n := w.event(filewatch.OpWrite, linked)
	w.settle(n, linked)
	r.judgedAs(t, "/usr/bin/env", remote.VerdictUnchanged)
	events := r.machine(t, "vm1").Events
	if first := events[len(events)-1]; first.Verdict != remote.VerdictOvertaken {
		t.Errorf("the truncation that nothing can be said of any more is %s", first.Verdict)
	}
	n = w.event(filewatch.OpChmod, linked) // to the mode it has
	w.settle(n, linked)
	r.judgedAs(t, "/usr/bin/env", remote.VerdictUnchanged)
	r.quiet(t)
}

// A log may grow where the rules only record it.
func TestAcceptsWritesThatAreRecordedOnly(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules.toml")
	if err := os.WriteFile(rules, []byte("[[rule]]\npath = \"/var/log/**\"\nlevel = \"record\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, strings.Replace(twoMachines, "measured_by", "rules = \""+rules+"\"\nmeasured_by", 1))
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, file("/var/log/syslog", 1, "a"))
	n := w.event(filewatch.OpWrite, file("/var/log/syslog", 1, "ab"))
	w.settle(n, file("/var/log/syslog", 1, "ab"))
	w.event(filewatch.OpChmod, file("/var/log/syslog", 1, "abc"))
	r.judgedAs(t, "/var/log/syslog", remote.VerdictRecorded)
	eventually(t, "two events", func() bool { return r.machine(t, "vm1").Files.Events == 2 })
	r.quiet(t)
}

func TestDetectsChangedModeAtOnce(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"))
	suid := file("/usr/bin/env", 2, "elf")
	suid.Mode = 0o4755
	w.event(filewatch.OpChmod, suid)
	r.judgedAs(t, "/usr/bin/env", remote.VerdictChanged)
	r.violations(t, 1)
}

func TestDetectsNewAndDeletedFiles(t *testing.T) {
	r, w := watched(t, file("/etc/passwd", 3, "root"))
	n := w.event(filewatch.OpCreate, file("/usr/bin/rootsh", 9, "x"))
	suid := file("/usr/bin/rootsh", 9, "sh")
	suid.Mode = 0o4755
	w.settle(n, suid)
	r.judgedAs(t, "/usr/bin/rootsh", remote.VerdictAdded)
	w.event(filewatch.OpUnlink, file("/etc/passwd", 3, "x"))
	r.judgedAs(t, "/etc/passwd", remote.VerdictRemoved)
	r.violations(t, 2)
	w.event(filewatch.OpUnlink, file("/usr/bin/rootsh", 9, "x"))
	r.violations(t, 1)
}

func TestUnreadableObjectIsNotAPass(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"))
	w.settle(w.event(filewatch.OpWrite, file("/usr/bin/env", 2, "evl")), nil)
	r.judgedAs(t, "/usr/bin/env", remote.VerdictUnknown)
}

func TestAcceptedChangeIsTheNextBaseline(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"))
	changed := file("/etc/motd", 1, "goodbye")
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), changed)
	r.violations(t, 1)
	id := r.machine(t, "vm1").Review[0].ID
	_, err := r.client.Decide(t.Context(), id, remote.Decision{Accept: true})
	wantAPIError(t, "without a reason", err, 400, remote.CodeBadRequest)
	before := r.machine(t, "vm1").Files.Baseline
	if _, err := r.client.Decide(t.Context(), id, remote.Decision{Accept: true, Reason: "change 4711"}); err != nil {
		t.Fatal(err)
	}
	m := r.machine(t, "vm1")
	if m.Files.Violations != 0 || m.Files.Baseline == before {
		t.Errorf("after accepting: %+v", m.Files)
	}
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), changed)
	r.judgedAs(t, "/etc/motd", remote.VerdictUnchanged)
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "hello"))
	r.violations(t, 1)
	_, err = r.client.Decide(t.Context(), "0000", remote.Decision{Accept: true, Reason: "x"})
	wantAPIError(t, "unknown item", err, 404, remote.CodeNotFound)
}

// The text that a rule keeps for diffs is part of what is accepted.
func TestAcceptedChangeKeepsItsText(t *testing.T) {
	text := "[[rule]]\npath = \"**\"\nlevel = \"verify\"\ncheck = [\"all\"]\ndiff = true\n"
	path := filepath.Join(t.TempDir(), "rules.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, strings.Replace(twoMachines, "measured_by", "rules = \""+path+"\"\nmeasured_by", 1))
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	var err error
	if w.rules, err = filewatch.ParseRules([]byte(text)); err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/etc/motd", 1, "one\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.capture(0, file("/etc/motd", 1, "two\n"))
	r.violations(t, 1)
	if _, err := r.client.Decide(t.Context(), r.machine(t, "vm1").Review[0].ID, remote.Decision{Accept: true, Reason: "change 4713"}); err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/etc/motd", 1, "three\n"))
	r.violations(t, 1)
	if change := string(r.machine(t, "vm1").Review[0].Changes); !strings.Contains(change, `-two\n+three`) {
		t.Errorf("the next change: %s", change)
	}
}

// What a scan could not read is not called right by accepting what it could.
func TestRefusesToAcceptWhatWasNotRead(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"))
	unread := file("/etc/motd", 1, "hello")
	unread.Mode, unread.Unread, unread.BLAKE3 = 0o4755, "bad block", baseline.Digest{}
	w.settle(w.event(filewatch.OpChmod, file("/etc/motd", 1, "x")), unread)
	r.violations(t, 1)
	_, err := r.client.Decide(t.Context(), r.machine(t, "vm1").Review[0].ID, remote.Decision{Accept: true, Reason: "change 4712"})
	wantAPIError(t, "not read whole", err, 409, remote.CodeConflict)
	r.violations(t, 1)
}

func TestRejectedChangeStaysAViolation(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"))
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "evil"))
	r.violations(t, 1)
	item, err := r.client.Decide(t.Context(), r.machine(t, "vm1").Review[0].ID, remote.Decision{Reason: "nobody did this"})
	if err != nil || !item.Rejected || item.State != reviewOpen {
		t.Errorf("rejected: %+v, %v", item, err)
	}
	if m := r.machine(t, "vm1"); m.State != remote.StateUntrusted {
		t.Errorf("the machine is %s", m.State)
	}
}

// A lost event is told and made up for by a rescan, which finds what it hid.
func TestLostEventLeadsToARescan(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"), file("/etc/passwd", 3, "root"))
	w.event(filewatch.OpExec, file("/etc/motd", 1, "x"))
	w.seq += 2 // two events that never arrive
	w.event(filewatch.OpExec, file("/etc/motd", 1, "x"))
	if m := r.said(t, "vm1", "file events 2 to 3 of vm1 never arrived"); m.Severity != remote.SeverityAlert {
		t.Errorf("told as %s", m.Severity)
	}
	if m := r.machine(t, "vm1"); m.State == remote.StateTrusted {
		t.Error("the machine is trusted although events were lost")
	}
	command := w.agent.command(remote.CommandRescan)
	w.capture(command.ID, file("/etc/motd", 1, "hello"), file("/etc/passwd", 3, "evil"))
	r.violations(t, 1)
	m := r.machine(t, "vm1")
	if len(m.Review) != 1 || m.Review[0].Subject != "/etc/passwd" {
		t.Errorf("review: %+v", m.Review)
	}
	// A second capture that nobody asked for is compared, not believed.
	w.capture(0, file("/etc/motd", 1, "hello"), file("/etc/passwd", 3, "root"))
	r.violations(t, 0)
	r.said(t, "vm1", "a rescan of vm1")
}

func TestRepeatedEventCountsOnce(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"))
	w.event(filewatch.OpExec, file("/etc/motd", 1, "x"))
	w.seq--
	w.event(filewatch.OpExec, file("/etc/motd", 1, "x"))
	w.event(filewatch.OpExec, file("/etc/motd", 1, "x"))
	eventually(t, "two events", func() bool { return r.machine(t, "vm1").Files.Events == 2 })
}

// The verifier asks by itself for the first baseline, and a person for another.
func TestBaselineOnRequest(t *testing.T) {
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchStarted, Target: "vm1"})
	command := w.agent.command(remote.CommandBaseline)
	w.capture(command.ID, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken: version 1")
	if origin := r.machine(t, "vm1").Files.Origin; !containsFold(origin, "first use") {
		t.Errorf("the baseline was %q", origin)
	}
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	var second remote.Command
	eventually(t, "the second command", func() bool {
		second = w.agent.command(remote.CommandBaseline)
		return second.ID != command.ID
	})
	w.capture(second.ID, file("/etc/motd", 1, "goodbye"))
	r.said(t, "vm1", "a baseline of vm1 was taken: version 2")
	r.violations(t, 0)
}
