package vm

import (
	"encoding/json"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/tap"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A link is judged where it put the object, if the baseline has something else there:
// the event of what was there before has no verdict of its own.
func TestLinkIsJudgedAtTheNameItTook(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules, err := filewatch.ParseRules([]byte("[[rule]]\npath=\"/**\"\nlevel=\"verify\"\ncheck=[\"content\",\"mode\",\"owner\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := captureOf(t, c.Image, rules).Index()
	if err != nil {
		t.Fatal(err)
	}
	records, err := index.Path("/d3/f4")
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %v", records, err)
	}
	r := records[0]
	w := &DiskWatcher{Rules: rules, Index: index}
	for newPath, want := range map[string]filewatch.Judgement{"/d3/f3": filewatch.Fail, "/d3/of-nobody": filewatch.Pass} {
		now := &tap.State{Object: r.Object, Names: []string{newPath, "/d3/f4"}, BLAKE3: tap.Digest(r.BLAKE3), SHA256: tap.Digest(r.SHA256)}
		e := &filewatch.Event{Op: filewatch.OpLink, Path: "/d3/f4", NewPath: newPath, Object: &now.Object}
		if w.judge(e, now); e.Verdict.Outcome != want {
			t.Errorf("link at %s: %+v, want %v", newPath, e.Verdict, want)
		}
	}
	// The first name of an object that had none is where it is.
	for newPath, want := range map[string]filewatch.Judgement{"/d3/f3": filewatch.Fail, "/d3/f4": filewatch.Pass} {
		now := &tap.State{Object: r.Object, Names: []string{newPath}, BLAKE3: tap.Digest(r.BLAKE3), SHA256: tap.Digest(r.SHA256)}
		e := &filewatch.Event{Op: filewatch.OpLink, NewPath: newPath, Object: &now.Object}
		if w.judge(e, now); e.Verdict.Outcome != want {
			t.Errorf("first name %s: %+v, want %v", newPath, e.Verdict, want)
		}
	}
}

// What goes with an event says of an object that nothing names that it has no name, and of
// a path without an object whether it is gone, another's, or not measured.
func TestSightOfWhatIsNotThere(t *testing.T) {
	var got Sight
	s := &sights{told: func(_ *filewatch.Event, seen Sight) error {
		got = seen
		return nil
	}}
	e := &filewatch.Event{Op: filewatch.OpUnknown, Path: "/a"}
	s.look(e, &tap.State{Object: filewatch.Object{Inode: 12, Type: filewatch.TypeFile}})
	s.emit(e)
	if got.Gone || got.Taken || got.Object == nil {
		t.Fatalf("without a name: %+v", got)
	}
	if text, err := json.Marshal(got.Object); err != nil || got.Object.Path() != "" {
		t.Errorf("without a name: %s, %v", text, err)
	}
	s.look(e, nil)
	s.emit(e)
	if got != (Sight{Gone: true}) {
		t.Errorf("gone: %+v", got)
	}
	s.emit(e)
	if got != (Sight{Taken: true}) {
		t.Errorf("another's: %+v", got)
	}
	e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "why"}
	s.emit(e)
	if got != (Sight{}) {
		t.Errorf("not measured: %+v", got)
	}
}
