package verifier

import (
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// unjudgedIs waits until the machine is, or is not, unknown for what an event did not tell.
func (r *running) unjudgedIs(t *testing.T, want bool) {
	t.Helper()
	eventually(t, "what no event told", func() bool {
		return want == slices.ContainsFunc(r.machine(t, "vm1").Reasons, func(s string) bool {
			return strings.Contains(s, "could not be compared with the baseline, and no rescan")
		})
	})
}

// tellPath tells of an operation of which only a path is known, "" for none.
func (w *watch) tellPath(op filewatch.Op, path string) uint64 {
	w.t.Helper()
	w.seq++
	w.tell(&filewatch.Event{Op: op, Path: path}, remote.Event{Sequence: w.seq})
	return w.seq
}

// A name that was taken away is compared by its path, though nothing is known of the
// object that had it.
func TestUnlinkWithoutAnObject(t *testing.T) {
	r, w := watched(t, file("/usr/bin/env", 2, "elf"))
	w.tellPath(filewatch.OpUnlink, "/usr/bin/of-nobody")
	r.judgedAs(t, "/usr/bin/of-nobody", remote.VerdictUnchanged)
	w.tellPath(filewatch.OpUnlink, "/usr/bin/env")
	r.judgedAs(t, "/usr/bin/env", remote.VerdictRemoved)
	r.violations(t, 1)
	r.unjudgedIs(t, false)
}

// What nobody can compare makes the machine unknown until a rescan has told.
func TestWhatAnEventDoesNotTellIsUnknown(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	for name, c := range map[string]struct {
		tell func(w *watch)
		path string
	}{
		"neither object nor path": {func(w *watch) { w.tellPath(filewatch.OpUnlink, "") }, ""},
		"no object":               {func(w *watch) { w.tellPath(filewatch.OpChmod, env.Path()) }, env.Path()},
		"a content never to come": {func(w *watch) { w.settle(w.event(filewatch.OpWrite, env), nil) }, env.Path()},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := watched(t, env)
			c.tell(w)
			r.judgedAs(t, c.path, remote.VerdictUnknown)
			r.unjudgedIs(t, true)
			w.capture(w.agent.command(remote.CommandRescan).ID, env)
			r.unjudgedIs(t, false)
			r.violations(t, 0)
		})
	}
}
