package verifier

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// found tells of an operation as the disk path does, which judges nothing. What is at its
// path now is seen, or absent says why there is nothing. It returns the event's number.
func (w *watch) found(e *filewatch.Event, seen *diskFile, absent remote.Absence) uint64 {
	w.t.Helper()
	w.seq++
	w.tellFound(e, seen, remote.Event{Sequence: w.seq, Absent: absent})
	return w.seq
}

// wrote tells of an operation on a file, as it is on the disk now.
func (w *watch) wrote(op filewatch.Op, f *diskFile) uint64 {
	w.t.Helper()
	return w.found(&filewatch.Event{Op: op, Path: f.Path(), Object: &f.Object}, f, "")
}

func (w *watch) tellFound(e *filewatch.Event, seen *diskFile, body remote.Event) {
	w.t.Helper()
	e.Since, e.Source = w.at.Add(-time.Second), "tap"
	if e.Status == "" {
		e.Status = filewatch.Found
	}
	if seen != nil {
		var err error
		if body.Object, err = json.Marshal(&seen.Record); err != nil {
			w.t.Fatal(err)
		}
	}
	w.send(e, body, filewatch.Actor{Unknown: "the disk does not say"})
}

// doubts waits until the machine is unknown because of what no event told, or is not.
func (r *running) doubts(t *testing.T, want bool) {
	t.Helper()
	eventually(t, "doubts about the files", func() bool {
		m, err := r.loadMachine(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		told := slices.ContainsFunc(fileReasons(&m.V, nil, r.now()), func(r reason) bool { return strings.Contains(r.text, "no rescan has told") })
		return told == want && (!told || m.V.State != remote.StateTrusted)
	})
}

// What was changed on the disk is judged by what came with its event, at once, and who
// did it is not known.
func TestDetectsChangesOnTheDiskPath(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"), file("/etc/passwd", 3, "root"), file("/usr/bin/id", 4, "id"))
	w.wrote(filewatch.OpWrite, file("/usr/bin/env", 2, "evl")) // same size, times put back
	r.judgedAs(t, "/usr/bin/env", remote.VerdictChanged)
	e := r.machine(t, "vm1").Events[0]
	if e.Actor != "unknown: the disk does not say" || !e.Since.Equal(w.at.Add(-time.Second)) || !e.Time.Equal(w.at) {
		t.Errorf("by %q, between %v and %v", e.Actor, e.Since, e.Time)
	}
	w.wrote(filewatch.OpCreate, file("/usr/bin/rootsh", 9, "sh"))
	r.judgedAs(t, "/usr/bin/rootsh", remote.VerdictAdded)
	gone := file("/etc/passwd", 3, "root")
	w.found(&filewatch.Event{Op: filewatch.OpUnlink, Path: "/etc/passwd", Object: &gone.Object}, nil, remote.AbsentGone)
	r.judgedAs(t, "/etc/passwd", remote.VerdictRemoved)
	suid := file("/usr/bin/id", 4, "id")
	suid.Mode = 0o4755
	w.wrote(filewatch.OpChmod, suid)
	r.judgedAs(t, "/usr/bin/id", remote.VerdictChanged)
	r.violations(t, 4)
	w.wrote(filewatch.OpWrite, file("/usr/bin/env", 2, "elf"))
	r.judgedAs(t, "/usr/bin/env", remote.VerdictUnchanged)
	r.violations(t, 3)
}

// A name that another object has now is judged by that object's event; a link to it where
// the baseline has something else is no pass.
func TestTakenNameIsJudgedByWhatTookIt(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"), file("/usr/bin/vim", 5, "vim"))
	was := file("/usr/bin/env", 2, "elf")
	w.found(&filewatch.Event{Op: filewatch.OpUnlink, Path: "/usr/bin/env", Object: &was.Object}, nil, remote.AbsentTaken)
	r.judgedAs(t, "/usr/bin/env", remote.VerdictOvertaken)
	r.violations(t, 0)
	linked := file("/usr/bin/env", 5, "vim")
	linked.Names, linked.Nlink = []string{"/usr/bin/env", "/usr/bin/vim"}, 2
	w.found(&filewatch.Event{Op: filewatch.OpLink, Path: "/usr/bin/vim", NewPath: "/usr/bin/env", Object: &linked.Object}, linked, "")
	r.judgedAs(t, "/usr/bin/vim", remote.VerdictChanged)
	if m := r.machine(t, "vm1"); len(m.Review) != 1 || m.Review[0].Subject != "/usr/bin/env" {
		t.Errorf("review: %+v", m.Review)
	}
}

// A content that may be still in the guest's memory waits for the event that has it, and
// what else differs does not.
func TestOngoingWriteOnTheDiskPath(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"), file("/usr/bin/id", 3, "id"))
	empty := file("/usr/bin/env", 2, "")
	n := w.found(&filewatch.Event{Op: filewatch.OpWrite, Path: "/usr/bin/env", Object: &empty.Object, Status: filewatch.Ongoing}, empty, "")
	r.judgedAs(t, "/usr/bin/env", remote.VerdictPending)
	w.seq++
	whole := file("/usr/bin/env", 2, "elf")
	w.tellFound(&filewatch.Event{Op: filewatch.OpWrite, Path: "/usr/bin/env", Follows: n, Object: &whole.Object}, whole, remote.Event{Sequence: w.seq, Follows: n})
	r.judgedAs(t, "/usr/bin/env", remote.VerdictUnchanged)
	r.quiet(t)
	suid := file("/usr/bin/id", 3, "")
	suid.Mode = 0o4755
	w.found(&filewatch.Event{Op: filewatch.OpWrite, Path: "/usr/bin/id", Object: &suid.Object, Status: filewatch.Ongoing}, suid, "")
	r.judgedAs(t, "/usr/bin/id", remote.VerdictChanged)
	r.violations(t, 1)
	r.doubts(t, false)
}

// Whatever an event of the disk path does not tell, a rescan does: until then the machine
// is not trusted.
func TestUntoldOnTheDiskPathIsNoPass(t *testing.T) {
	was, other := file("/usr/bin/env", 2, "elf"), file("/usr/bin/id", 3, "id")
	for name, c := range map[string]struct {
		path, verdict string
		tell          func(w *watch)
	}{
		"not measured": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			w.found(&filewatch.Event{Op: filewatch.OpUnlink, Path: was.Path(), Object: &was.Object,
				Verdict: filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "what has its name came with a directory"}}, nil, "")
		}},
		"nothing said": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			w.found(&filewatch.Event{Op: filewatch.OpUnlink, Path: was.Path(), Object: &was.Object}, nil, "")
		}},
		"not read": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			unread := file("/usr/bin/env", 2, "elf")
			unread.BLAKE3, unread.Unread = [32]byte{}, "bad block"
			w.wrote(filewatch.OpWrite, unread)
		}},
		"not digested": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			unread := file("/usr/bin/env", 2, "elf")
			unread.BLAKE3 = [32]byte{}
			w.wrote(filewatch.OpWrite, unread)
		}},
		"without a name": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			w.wrote(filewatch.OpUnknown, was)
		}},
		"not read in the end": {"/usr/bin/env", remote.VerdictUnknown, func(w *watch) {
			n := w.found(&filewatch.Event{Op: filewatch.OpWrite, Path: was.Path(), Object: &was.Object, Status: filewatch.Ongoing}, was, "")
			w.seq++
			w.tellFound(&filewatch.Event{Op: filewatch.OpWrite, Path: was.Path(), Follows: n,
				Verdict: filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "gone"}}, nil, remote.Event{Sequence: w.seq, Follows: n})
		}},
		"below a directory": {"/srv/a", remote.VerdictAdded, func(w *watch) {
			dir := file("/srv/b", 40, "")
			dir.Type, dir.BLAKE3 = filewatch.TypeDir, [32]byte{}
			w.found(&filewatch.Event{Op: filewatch.OpRename, Path: "/srv/a", NewPath: "/srv/b", Below: 2, Object: &dir.Object}, dir, "")
		}},
		"over another": {"/usr/bin/env", remote.VerdictChanged, func(w *watch) {
			over := file("/usr/bin/id", 2, "elf")
			w.found(&filewatch.Event{Op: filewatch.OpRename, Path: "/usr/bin/env", NewPath: "/usr/bin/id", Object: &over.Object}, over, "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := watched(t, was, other)
			c.tell(w)
			r.judgedAs(t, c.path, c.verdict)
			r.doubts(t, true)
			command := w.agent.command(remote.CommandRescan)
			w.capture(command.ID, was, other)
			r.doubts(t, false)
			r.violations(t, 0)
		})
	}
}

// A watch that says itself what it lost, and one that begins anew, have the files
// rescanned though no event follows; the number that is left out is no second loss.
func TestLossThatTheWatchTells(t *testing.T) {
	r, w := watched(t, file("/etc/motd", 1, "hello"))
	w.wrote(filewatch.OpWrite, file("/etc/motd", 1, "hello"))
	r.judgedAs(t, "/etc/motd", remote.VerdictUnchanged)
	w.seq++
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchNotice, Target: "vm1", Detail: "gap: the bitmap is gone", First: w.seq, Lost: 1})
	command := w.agent.command(remote.CommandRescan)
	w.capture(command.ID, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a rescan of vm1")
	w.wrote(filewatch.OpWrite, file("/etc/motd", 1, "hello"))
	eventually(t, "two events", func() bool { return r.machine(t, "vm1").Files.Events == 2 })
	if open := r.rescans(t); len(open) != 1 || open[0].ID != command.ID {
		t.Errorf("rescans that are asked for: %+v", open)
	}
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchStarted, Target: "vm1", Detail: "w2", Source: "disk"})
	r.said(t, "vm1", "watched on the disk path")
	r.said(t, "vm1", "the watch on vm1 began anew")
	if next := w.agent.command(remote.CommandRescan); next.ID == command.ID {
		t.Errorf("the watch began anew, and nothing is rescanned")
	}
	if m := r.machine(t, "vm1"); m.State == remote.StateTrusted {
		t.Error("the machine is trusted although its watch began anew")
	}
}

// A rescan for lost events that fails is asked for again, after a pause.
func TestRescanForLossIsAskedAgain(t *testing.T) {
	r := startPausing(t, twoMachines, 10000*time.Hour)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchNotice, Target: "vm1", Detail: "gap: the bitmap is gone", First: 1, Lost: 1})
	command := w.agent.command(remote.CommandRescan)
	r.tickAfter(t, 10000*time.Hour)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("while the agent is at it: %+v", open)
	}
	w.agent.send(remote.KindStatus, remote.Status{State: remote.CommandFailed, Target: "vm1", Command: command.ID, Detail: "QEMU is busy"})
	r.said(t, "vm1", "could not do as asked")
	r.tickAfter(t, time.Minute)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("during the pause: %+v", open)
	}
	r.tickAfter(t, longestLossPause+time.Minute)
	if open := r.rescans(t); len(open) != 2 {
		t.Fatalf("after the pause: %+v", open)
	}
	second := w.agent.command(remote.CommandRescan)
	w.capture(second.ID, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a rescan of vm1")
	r.tickAfter(t, 10000*time.Hour)
	if open := r.rescans(t); len(open) != 1 || open[0].ID != second.ID {
		t.Errorf("after it: %+v", open)
	}
}
