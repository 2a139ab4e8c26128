package tap

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// volumeStates keeps some states of volumes.
func volumeStates(t *testing.T, k *kept, each int, ids ...string) {
	t.Helper()
	var entries [][]byte
	var voids []void
	for _, id := range ids {
		voids = append(voids, void{prefix: appendVolume(nil, id), whole: true})
		for n := range each {
			entries = append(entries, appendState(nil, &State{Object: filewatch.Object{Volume: id, Inode: uint64(n + 1)}, Names: []string{"/x"}}))
		}
	}
	slices.SortFunc(entries, slices.Compare)
	err := k.update(voids, func(fn func([]byte) error) error {
		for _, e := range entries {
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A guest that makes one volume after another does not have all of their states kept:
// what is dropped is told, and what was there at the first look is not pushed out.
func TestStatesOfGoneVolumesAreBounded(t *testing.T) {
	var many []string
	for n := range maxGone + 3 {
		many = append(many, fmt.Sprintf("made%02d", n))
	}
	for name, c := range map[string]struct {
		later   []string
		room    int64
		dropped []string
	}{
		"few":   {many[:2], 0, nil},
		"many":  {many, 0, many[maxGone:]},
		"large": {many[:3], -2, many[2:3]}, // room for two
	} {
		k := &kept{dir: sorted.Dir(t.TempDir()), over: map[string][]byte{}}
		var alerts []filewatch.Alert
		s := &Source{Next: 1, kept: k, Alert: func(a filewatch.Alert) { alerts = append(alerts, a) }}
		bound := func(l *look, first bool) []string {
			t.Helper()
			l.kept = k
			if err := s.bound(l, first); err != nil {
				t.Fatal(err)
			}
			if err := k.update(l.drop, nothing); err != nil {
				t.Fatal(err)
			}
			var ids []string
			had, err := k.volumes()
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range had {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			return ids
		}
		volumeStates(t, k, 100, "root")
		bound(&look{come: []string{"root"}}, true)
		for _, id := range c.later {
			volumeStates(t, k, 10, id)
			bound(&look{come: []string{id}}, false)
		}
		each, err := k.size(appendVolume(nil, c.later[0]))
		if err != nil || each == 0 {
			t.Fatalf("%d bytes, %v", each, err)
		}
		if s.volumes.room = c.room; c.room < 0 {
			s.volumes.room = -c.room * each
		}
		gone := append([]string{"root"}, c.later...)
		want := slices.DeleteFunc(slices.Clone(gone), func(id string) bool { return slices.Contains(c.dropped, id) })
		slices.Sort(want)
		for range 2 { // dropped and told once
			got := bound(&look{gone: slices.DeleteFunc(slices.Clone(gone), func(id string) bool { return len(alerts) > 0 && slices.Contains(c.dropped, id) })}, false)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s (want, got):\n%s", name, d)
			}
		}
		if len(alerts) != len(c.dropped) {
			t.Errorf("%s: alerts %+v", name, alerts)
		}
		for i, a := range alerts {
			if a.Alert != filewatch.AlertGap || a.Lost != 1 || !strings.Contains(a.Reason, c.dropped[i]) {
				t.Errorf("%s: %+v", name, a)
			}
		}
	}
}

// An unreadable content that may be what it was keeps its reason, and one that was left to
// a later look does not keep that.
func TestReasonOfBeforeIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		was  State
		same bool
		want string
	}{
		"unreadable, the same":     {State{Unread: "bad block"}, true, "bad block"},
		"unreadable, written":      {State{Unread: "bad block"}, false, "one look reads at most"},
		"left to a later look":     {State{Unread: "content not read yet", Left: true}, true, "one look reads at most"},
		"too large then, the same": {State{Unread: "content of 29 bytes that may have changed by then not read"}, true, "by then not read"},
	} {
		k := &kept{dir: sorted.Dir(t.TempDir()), over: map[string][]byte{}}
		o := filewatch.Object{Volume: "v", Inode: 12, Generation: 7, Type: filewatch.TypeFile, Size: 29}
		c.was.Object = o
		if err := k.put(split(appendState(nil, &c.was))); err != nil {
			t.Fatal(err)
		}
		l := &look{kept: k, rules: parsed(t, "[[rule]]\npath=\"/**\"\nlevel=\"verify\"\n"), most: 10, left: 10}
		if l.want(&o, []string{"/a"}, c.same) {
			t.Fatalf("%s: it is read", name)
		}
		got, _ := l.reused.Load(o.ID())
		if d := got.(digests); !strings.Contains(d.unread, c.want) || d.left {
			t.Errorf("%s: %q, left %v, want %q", name, d.unread, d.left, c.want)
		}
	}
}

// What ends while more is found than is told one by one is forgotten all the same: when it
// comes again that is told.
func TestGapThatEndsWhileMutedIsToldAgain(t *testing.T) {
	var alerts []string
	s := &Source{Next: 1, told: map[string]bool{}, Alert: func(a filewatch.Alert) { alerts = append(alerts, a.Reason) }}
	gaps := func(from, to int) *look {
		l := &look{everything: true}
		for i := range to - from {
			l.gaps = append(l.gaps, filewatch.Gap{What: fmt.Sprint("inode ", from+i), Reason: "damaged"})
		}
		return l
	}
	s.tellGaps(gaps(0, maxTold+10), false)
	if s.tellGaps(gaps(0, maxTold+10), false); s.muted.IsZero() || len(alerts) != maxTold+1 {
		t.Fatalf("%d alerts, muted since %v", len(alerts), s.muted)
	}
	// Of those that were told half end, then come again.
	s.tellGaps(gaps(maxTold/2, maxTold+10), false)
	if !s.muted.IsZero() {
		t.Error("still muted")
	}
	before := len(alerts)
	s.tellGaps(gaps(0, maxTold), false)
	told := alerts[before:]
	if !slices.Contains(told, "inode 0: damaged") || !slices.Contains(told, fmt.Sprintf("inode %d: damaged", maxTold/2-1)) {
		t.Errorf("told again: %d, %q ...", len(told), told[:min(3, len(told))])
	}
}

// Paths that are held of one look are bounded in bytes, and where that is reached nobody
// claims to know what took a name.
func TestPathsOfALookAreBounded(t *testing.T) {
	var got []string
	judge := func(e *filewatch.Event, now *State) { e.Verdict.Outcome = filewatch.Pass }
	r := &report{look: &look{}, source: &Source{Next: 1, Judge: judge, waiting: map[string]*waiting{}}, moved: map[string]moved{}, taken: map[string]taken{}, broken: map[string]bool{},
		emit: func(e *filewatch.Event) error {
			got = append(got, fmt.Sprintf("%v %s %s", e.Op, e.Path, e.Verdict.Outcome))
			return nil
		}}
	taking := func(s *State) { s.Inode, s.Names = 20, []string{"/a"} }
	r.held = maxPaths - 1
	if err := r.survey(nil, file(taking)); err != nil {
		t.Fatal(err)
	}
	if err := r.survey(file(dir), file(dir, named("/b"))); err != nil {
		t.Fatal(err)
	}
	if !r.full || len(r.taken) != 0 || len(r.moved) != 0 || r.held > maxPaths {
		t.Errorf("full %v, %d names, %d directories, %d bytes", r.full, len(r.taken), len(r.moved), r.held)
	}
	if err := r.tell(file(), nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"unlink /a not-measured"}, got); d != "" {
		t.Error(d)
	}
	// What is waited for has a bound of its own: beyond it contents are judged as they are.
	r.source.waitingPaths = maxWaitingPaths
	got = nil
	if err := r.tell(nil, file(func(s *State) { s.Inode, s.Size, s.Unsettled = 21, 0, true })); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"create /a pass"}, got); d != "" || len(r.source.waiting) != 0 {
		t.Errorf("%d waited for, %s", len(r.source.waiting), d)
	}
}
