package verifier

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// watchedUnder is watched with rules that ignore /tmp and protect /usr/bin.
func watchedUnder(t *testing.T, files ...*diskFile) (*running, *watch) {
	t.Helper()
	rules := filepath.Join(t.TempDir(), "rules.toml")
	text := "[[rule]]\npath = \"/tmp/**\"\nlevel = \"ignore\"\n[[rule]]\npath = \"/usr/bin/**\"\nlevel = \"protect\"\n"
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, strings.Replace(twoMachines, "measured_by", "rules = \""+rules+"\"\nmeasured_by", 1))
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, files...)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	return r, w
}

func (w *watch) rename(from string, to *diskFile) uint64 {
	w.t.Helper()
	w.seq++
	w.tell(&filewatch.Event{Op: filewatch.OpRename, Path: from, NewPath: to.Path(), Object: &to.Object}, remote.Event{Sequence: w.seq})
	return w.seq
}

// A file that is made in an ignored place is renamed over a protected one.
func TestDetectsRenameOverProtectedFile(t *testing.T) {
	r, w := watchedUnder(t, file("/usr/bin/env", 2, "elf"))
	evil := file("/usr/bin/env", 9, "evil")
	w.settle(w.rename("/tmp/evil", evil), evil)
	r.violations(t, 1)
	m := r.machine(t, "vm1")
	if m.Review[0].Subject != "/usr/bin/env" || m.Events[0].Level != "protect" || m.Events[0].Verdict != remote.VerdictChanged {
		t.Errorf("review %+v, event %+v", m.Review[0], m.Events[0])
	}
	r.said(t, "vm1", "rename of protected /tmp/evil to /usr/bin/env")
}

// A protected file is written through another name of it in an ignored place.
func TestDetectsWriteThroughHardLink(t *testing.T) {
	r, w := watchedUnder(t, file("/usr/bin/env", 2, "elf"))
	w.settle(w.event(filewatch.OpWrite, file("/tmp/link", 2, "elf")), file("/tmp/link", 2, "evl"))
	r.violations(t, 1)
	if subject := r.machine(t, "vm1").Review[0].Subject; subject != "/usr/bin/env" {
		t.Errorf("the review is about %s", subject)
	}
}

// The same operations between ignored places alarm nobody.
func TestAcceptsRenameAndWriteInIgnoredPlaces(t *testing.T) {
	r, w := watchedUnder(t, file("/usr/bin/env", 2, "elf"))
	other := file("/tmp/b", 9, "x")
	w.settle(w.rename("/tmp/a", other), other)
	w.settle(w.event(filewatch.OpWrite, file("/tmp/link", 8, "x")), file("/tmp/link", 8, "y"))
	r.judgedAs(t, "/tmp/link", remote.VerdictRecorded)
	r.quiet(t)
}

func TestReviewItemsOfTwoPathsDoNotCollide(t *testing.T) {
	if id := reviewID("vm1", "/a"); len(id) < 32 || id == reviewID("vm1", "/b") {
		t.Errorf("id %s", id)
	}
}
