package verifier

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

const suspected = "moved aside or cut"

// logWatch is a watch with a baseline of one log.
func logWatch(t *testing.T, r *running) *watch {
	t.Helper()
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	var err error
	w.rules, err = filewatch.ParseRules([]byte("[[rule]]\npath = \"/var/log/**\"\nlevel = \"verify\"\ncheck = [\"growing\", \"owner\", \"mode\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/var/log/syslog", 1, "line 1\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	return w
}

func (r *running) suspects(t *testing.T, want bool) {
	t.Helper()
	eventually(t, "a suspected rotation", func() bool {
		return want == slices.ContainsFunc(r.machine(t, "vm1").Reasons, func(s string) bool { return strings.Contains(s, suspected) })
	})
}

// A rotation that a rescan took for one may be taken away later: the log's old lines are
// gone then, though the baseline has nothing at its path.
func TestRotationThatIsTakenAway(t *testing.T) {
	for name, take := range map[string]func(w *watch, moved *diskFile){
		"unlink": func(w *watch, moved *diskFile) { w.event(filewatch.OpUnlink, moved) },
		"rename": func(w *watch, moved *diskFile) {
			away := file("/var/tmp/x", 9, moved.content)
			w.settle(w.rename("/var/log/syslog.1", away), away)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, twoMachines)
			w := logWatch(t, r)
			// A copy: the identity of the baseline's is that of the log still.
			cut, moved := file("/var/log/syslog", 1, ""), file("/var/log/syslog.1", 9, "line 1\nline 2\n")
			w.settle(w.event(filewatch.OpTruncate, cut), cut)
			command := w.agent.command(remote.CommandRescan)
			w.logs = command.Logs
			w.capture(command.ID, moved, cut)
			r.suspects(t, false)
			r.violations(t, 0)
			take(w, moved)
			r.judgedAs(t, "/var/log/syslog.1", remote.VerdictUnknown)
			r.suspects(t, true)
			second := w.agent.command(remote.CommandRescan)
			w.capture(second.ID, cut)
			r.suspects(t, false)
			r.violations(t, 1)
		})
	}
}

// One rename is looked into once, when its content is on disk; what follows waits until
// the pause is over, and is not forgotten.
func TestRescansForLogsPause(t *testing.T) {
	r := startPausing(t, twoMachines, 10000*time.Hour)
	w := logWatch(t, r)
	moved := file("/var/log/syslog.1", 1, "line 1\nline 2\n")
	number := w.rename("/var/log/syslog", moved)
	r.suspects(t, true)
	if open := r.rescans(t); len(open) != 0 {
		t.Errorf("before the content is on disk: %+v", open)
	}
	w.settle(number, moved)
	command := w.agent.command(remote.CommandRescan)
	w.logs = command.Logs
	w.capture(command.ID, moved, file("/var/log/syslog", 5, "new\n"))
	r.suspects(t, false)
	w.event(filewatch.OpUnlink, moved)
	r.suspects(t, true)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("during the pause: %+v", open)
	}
	r.tickAfter(t, 10001*time.Hour)
	if open := r.rescans(t); len(open) != 2 {
		t.Errorf("after the pause: %+v", open)
	}
}

// A rescan that fails is asked for again.
func TestRescanThatFailsIsAskedAgain(t *testing.T) {
	r := startPausing(t, twoMachines, 10000*time.Hour)
	w := logWatch(t, r)
	cut := file("/var/log/syslog", 1, "")
	w.settle(w.event(filewatch.OpTruncate, cut), cut)
	command := w.agent.command(remote.CommandRescan)
	w.agent.send(remote.KindStatus, remote.Status{State: remote.CommandFailed, Target: "vm1", Command: command.ID, Detail: "no disk"})
	r.said(t, "vm1", "could not do as asked")
	r.suspects(t, true)
	r.tickAfter(t, time.Hour)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("during the pause: %+v", open)
	}
	r.tickAfter(t, 10001*time.Hour)
	if open := r.rescans(t); len(open) != 2 {
		t.Errorf("after the pause: %+v", open)
	}
}

// rescans are the commands for one that were not acknowledged.
func (r *running) rescans(t *testing.T) (open []remote.Command) {
	t.Helper()
	docs, err := list[remote.Command](t.Context(), r.store, store.Query{Collection: inCommands, Machine: "host1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if d.V.Kind == remote.CommandRescan {
			open = append(open, d.V)
		}
	}
	return open
}

// tickAfter has the schedule ask for what is due about vm1's logs some time from now.
func (r *running) tickAfter(t *testing.T, d time.Duration) {
	t.Helper()
	v := r.after(d)
	v.config, v.signer, v.rules, v.rotationPause = r.config, r.signer, r.rules, r.rotationPause
	at, err := v.loadMachine(t.Context(), "vm1")
	if err == nil {
		err = v.due(t.Context(), &at.V)
	}
	if err != nil {
		t.Fatal(err)
	}
}
