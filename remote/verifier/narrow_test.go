package verifier

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// watchedNarrowly has rules here that compare regular files only, where the agent's take
// everything.
func watchedNarrowly(t *testing.T, files ...*diskFile) (*running, *watch) {
	t.Helper()
	rules := filepath.Join(t.TempDir(), "rules.toml")
	text := "[[rule]]\npath = \"/usr/**\"\ntype = \"file\"\nlevel = \"verify\"\n[[rule]]\npath = \"**\"\nlevel = \"record\"\n"
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, strings.Replace(twoMachines, "measured_by", "rules = \""+rules+"\"\nmeasured_by", 1))
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, files...)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	return r, w
}

// What takes the name of a file of the baseline is held to that file, whatever the rules
// say of an object of its type.
func TestFileGivesItsNameToWhatIsOnlyRecorded(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r, w := watchedNarrowly(t, env)
	w.found(&filewatch.Event{Op: filewatch.OpUnlink, Path: env.Path(), Object: &env.Object}, nil, remote.AbsentTaken)
	r.judgedAs(t, env.Path(), remote.VerdictOvertaken)
	link := file(env.Path(), 9, "")
	link.Type, link.Link, link.BLAKE3 = filewatch.TypeSymlink, "/tmp/evil", [32]byte{}
	w.wrote(filewatch.OpSymlink, link)
	r.judgedAs(t, env.Path(), remote.VerdictChanged)
	r.violations(t, 1)
	other := file("/usr/bin/other", 10, "")
	other.Type, other.Link, other.BLAKE3 = filewatch.TypeSymlink, "env", [32]byte{}
	w.wrote(filewatch.OpSymlink, other)
	r.judgedAs(t, other.Path(), remote.VerdictRecorded)
}

// A directory that is only recorded here stands for all below it where the agent's rules
// are stricter: what that is nobody judged.
func TestRecordedDirectoryMovesWhatIsVerified(t *testing.T) {
	r, w := watchedNarrowly(t, file("/usr/lib/a/so", 2, "elf"))
	dir := file("/usr/lib/b", 40, "")
	dir.Type, dir.BLAKE3 = filewatch.TypeDir, [32]byte{}
	tell := func(level filewatch.Level) {
		t.Helper()
		w.seq++
		event, err := json.Marshal(&filewatch.Event{Target: w.target, Sequence: w.seq, Time: w.at, Source: "tap", Status: filewatch.Found, Level: level,
			Op: filewatch.OpRename, Path: "/usr/lib/a", NewPath: "/usr/lib/b", Below: 1, Object: &dir.Object, Actor: filewatch.Actor{Unknown: "the disk does not say"}})
		if err != nil {
			t.Fatal(err)
		}
		object, err := json.Marshal(&dir.Record)
		if err != nil {
			t.Fatal(err)
		}
		w.agent.send(remote.KindEvent, remote.Event{Target: w.target, Stream: w.stream, Sequence: w.seq, Event: event, Object: object})
		r.judgedAs(t, "/usr/lib/a", remote.VerdictRecorded)
		eventually(t, "the event", func() bool { return r.machine(t, "vm1").Files.Events == int64(w.seq) })
	}
	tell(filewatch.Record)
	r.doubts(t, false)
	tell(filewatch.Verify)
	r.doubts(t, true)
}

// A content of which an event was to follow, and that is not read in the end, is not
// measured, whatever was compared meanwhile.
func TestContentNotReadInTheEnd(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r, w := watched(t, env)
	n := w.found(&filewatch.Event{Op: filewatch.OpWrite, Path: env.Path(), Object: &env.Object, Status: filewatch.Ongoing}, env, "")
	r.judgedAs(t, env.Path(), remote.VerdictPending)
	w.wrote(filewatch.OpChmod, env)
	r.judgedAs(t, env.Path(), remote.VerdictUnchanged)
	r.doubts(t, false)
	w.seq++
	w.tellFound(&filewatch.Event{Op: filewatch.OpWrite, Path: env.Path(), Follows: n,
		Verdict: filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "it could not be looked at again"}}, nil, remote.Event{Sequence: w.seq, Follows: n})
	r.doubts(t, true)
}
