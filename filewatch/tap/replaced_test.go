package tap

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// A name that goes to another object has a verdict exactly once where an event tells of
// that object, and says what is known where none does.
func TestSourceJudgesWhatTookAName(t *testing.T) {
	const files = "[[rule]]\npath=\"/**\"\ntype=\"file\"\nlevel=\"verify\"\n"
	for name, c := range map[string]struct {
		rules  string
		change []string
		want   []string // what is judged, and what has another verdict
	}{
		"by a link": {"", []string{"rm /d3/f3", "ln /d3/f4 /d3/f3", "set_inode_field /d3/f4 links_count 2"},
			[]string{"link /d3/f4 -> /d3/f3"}},
		"by a rename": {"", []string{"rm /d3/f3", "ln /d3/f4 /d3/f3", "unlink /d3/f4"},
			[]string{"rename /d3/f4 -> /d3/f3"}},
		"by what a rule ignores": {files, []string{"symlink /other /d3/f4", "rm /d3/f3", "ln /other /d3/f3", "unlink /other"},
			[]string{"unlink /d3/f3 (gone)"}},
		"by what came with its directory": {"", []string{"rm /d3/f3", "ln /d3 /old", "unlink /d3", "ln /d4 /d3", "unlink /d4"},
			[]string{"rename /d3 -> /old", "rename /d4 -> /d3", "unlink /d3/f3: not-measured"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newGuestDisk(t, "raw")
			var got []string
			w := watch(t, d.m.QMP, func(s *Source) {
				if c.rules != "" {
					s.Rules = parsed(t, c.rules)
				}
				s.Judge = func(e *filewatch.Event, now *State) {
					text := words([]Operation{{Op: e.Op, Path: e.Path, NewPath: e.NewPath}})[0]
					if now == nil {
						text += " (gone)"
					}
					got = append(got, text)
				}
			})
			w.step(func() { d.run(c.change...) })
			if err := w.stop(); err == nil {
				t.Fatal("ended without being asked")
			}
			for _, e := range w.events {
				if e.Verdict.Outcome != (filewatch.Verdict{}).Outcome {
					got = append(got, fmt.Sprintf("%v %s: %v", e.Op, e.Path, e.Verdict.Outcome))
				}
			}
			slices.Sort(got)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(want, got):\n%s\nevents %q", d, w.words(0))
			}
		})
	}
}

// What a look does not read is told each time that it changes.
func TestSourceTellsALargeContentAgain(t *testing.T) {
	d := newGuestDisk(t, "raw")
	content := strings.Repeat("what is on the disk. ", 1400)
	d.run("write " + d.local(content) + " /place")
	rules := parsed(t, "[[rule]]\npath=\"/place\"\nlevel=\"verify\"\n[[rule]]\npath=\"/**\"\nlevel=\"ignore\"\n")
	w := watch(t, d.m.QMP, func(s *Source) { s.most, s.Rules = 10_000, rules })
	at := strings.Index(string(d.image), content)
	if at < 0 {
		t.Fatal("the content is not on the disk in one piece")
	}
	for i := range 3 {
		got := w.step(func() { d.m.Write(t, 0, int64(at), []byte(strings.Repeat(fmt.Sprint(i), 4096))) })
		if len(got) != 1 || !strings.HasPrefix(got[0], "unknown /place: content of 29400 bytes that may have changed by ") {
			t.Errorf("change %d: events %q", i, got)
		}
	}
	if got := w.step(func() { d.run("set_inode_field /place mode 0100700") }); !slices.Equal(got, []string{"chmod /place"}) {
		t.Errorf("events %q", got)
	}
	if got := w.step(func() { d.run("set_inode_field /place ctime @1900000000") }); len(got) != 1 ||
		!strings.HasPrefix(got[0], "utimes /place: its times differ; whether its content does is not known: content of 29400 bytes") {
		t.Errorf("events %q", got)
	}
}
