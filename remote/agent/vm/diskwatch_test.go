package vm

import (
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
