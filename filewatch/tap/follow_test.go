package tap

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// series reports what becomes of one object from state to state, as looks would.
type series struct {
	*Source
	t      *testing.T
	last   *State
	events []string
}

func (s *series) become(now *State) {
	s.t.Helper()
	r := &report{look: &look{rules: s.Rules}, source: s.Source, moved: map[string]moved{}, taken: map[string]taken{}, broken: map[string]bool{},
		emit: func(e *filewatch.Event) error {
			text := words([]Operation{{Op: e.Op, Path: e.Path, NewPath: e.NewPath}})[0] + " " + string(e.Status)
			if e.Follows != 0 {
				text = fmt.Sprintf("%d: %s", e.Follows, text)
			}
			if e.Verdict.Outcome != filewatch.NotJudged {
				text += ": " + string(e.Verdict.Outcome) + ", " + e.Verdict.Reason
			}
			s.events = append(s.events, text)
			return nil
		}}
	if s.last != nil && now != nil && s.last.name() == "/dir/a" && now.name() == "/moved/a" {
		r.moved["/dir"] = moved{to: "/moved", level: filewatch.Verify}
	}
	if err := r.tell(s.last, now); err != nil {
		s.t.Fatal(err)
	}
	s.last = now
}

// late has the time for waiting be over.
func (s *series) late() {
	for _, w := range s.waiting {
		w.until = time.Now().Add(-time.Second)
	}
}

// An event whose content is waited for is followed by one that has it, whatever becomes
// of the object meanwhile, unless an event tells of the content or the end.
func TestWhatIsPromisedFollows(t *testing.T) {
	empty := func(change ...func(*State)) *State {
		return file(slices.Concat([]func(*State){named("/dir/a"), func(s *State) { s.Size, s.Unsettled = 0, true }}, change)...)
	}
	chmod := func(s *State) { s.Mode = 0o4755 }
	for name, c := range map[string]struct {
		states []*State // nil: it is not there; the first is not there
		want   []string
	}{
		"nothing more":       {[]*State{empty(), empty()}, []string{"create /dir/a ongoing", "1: create /dir/a found"}},
		"another attribute":  {[]*State{empty(), empty(chmod), empty(chmod)}, []string{"create /dir/a ongoing", "chmod /dir/a found", "1: create /dir/a found"}},
		"attribute when due": {[]*State{empty(), empty(chmod)}, []string{"create /dir/a ongoing", "chmod /dir/a found", "1: create /dir/a found"}},
		"renamed": {[]*State{empty(), empty(named("/dir/b")), empty(named("/dir/b"))},
			[]string{"create /dir/a ongoing", "rename /dir/a -> /dir/b found", "1: create /dir/b found"}},
		"moved along": {[]*State{empty(), empty(named("/moved/a")), empty(named("/moved/a"))}, []string{"create /dir/a ongoing", "1: create /moved/a found"}},
		"written":     {[]*State{empty(), file(named("/dir/a"), written)}, []string{"create /dir/a ongoing", "write /dir/a found"}},
		"written, not at rest": {[]*State{empty(), empty(written), empty(written)},
			[]string{"create /dir/a ongoing", "write /dir/a ongoing", "2: write /dir/a found"}},
		"gone": {[]*State{empty(), nil}, []string{"create /dir/a ongoing", "unlink /dir/a found"}},
		"gone where nothing is told": {[]*State{empty(), empty(named("/ignored/a")), nil},
			[]string{"create /dir/a ongoing", "rename /dir/a -> /ignored/a found",
				"1: create /dir/a found: not-measured, it changed since, where the rules do not tell what became of it"}},
		"written where nothing is told": {[]*State{empty(), empty(named("/ignored/a")), empty(named("/ignored/a"), written)},
			[]string{"create /dir/a ongoing", "rename /dir/a -> /ignored/a found",
				"1: create /dir/a found: not-measured, it changed since, where the rules do not tell what became of it"}},
		"unreadable then": {[]*State{empty(), empty(func(s *State) { s.Unread = "bad block" }), empty(func(s *State) { s.Unread = "bad block" })},
			[]string{"create /dir/a ongoing", "unknown /dir/a found", "1: create /dir/a found: not-measured, bad block"}},
	} {
		s := &series{t: t, Source: &Source{Next: 1, settling: time.Hour, waiting: map[string]*waiting{},
			Rules: parsed(t, "[[rule]]\npath=\"/ignored/**\"\nlevel=\"ignore\"\n[[rule]]\npath=\"**\"\nlevel=\"verify\"\n")}}
		for i, state := range c.states {
			if i == len(c.states)-1 {
				s.late()
			}
			s.become(state)
		}
		if d := cmp.Diff(c.want, s.events); d != "" {
			t.Errorf("%s (want, got):\n%s", name, d)
		}
		if left := strings.HasSuffix(c.want[len(c.want)-1], "ongoing"); left != (len(s.waiting) > 0) || s.waitingPaths != 0 {
			t.Errorf("%s: %d are waited for, %d bytes of paths", name, len(s.waiting), s.waitingPaths)
		}
	}
}

// Who writes a content that comes to no rest again and again does not put off its verdict
// for ever: once it was waited for it is what it is, and the next one is waited for anew.
func TestWritingAgainDoesNotPutOff(t *testing.T) {
	version := func(n byte) *State {
		return file(named("/dir/a"), func(s *State) { s.BLAKE3, s.Unsettled, s.Mtime = Digest{n}, true, s.Mtime.Add(time.Duration(n)) })
	}
	s := &series{t: t, Source: &Source{Next: 1, settling: time.Hour, waiting: map[string]*waiting{}}, last: version(1)}
	var last time.Time
	for n := byte(2); n < 7; n++ {
		s.become(version(n))
		for _, w := range s.waiting {
			if n == 3 && !w.last.Equal(last) || w.until.After(w.last) {
				t.Errorf("put off from %v to %v, at most %v", last, w.until, w.last)
			}
			if last = w.last; n == 4 {
				w.last = time.Now().Add(-time.Second)
			}
		}
	}
	const ongoing, found = "write /dir/a ongoing", "write /dir/a found"
	if d := cmp.Diff([]string{ongoing, ongoing, ongoing, found, ongoing}, s.events); d != "" {
		t.Error(d)
	}
	if len(s.waiting) != 1 {
		t.Errorf("%d are waited for", len(s.waiting))
	}
}

// Nor who puts another such file in its place, made there or brought there.
func TestAnotherInItsPlaceDoesNotPutOff(t *testing.T) {
	at := func(inode uint64, path string) *State {
		return file(named(path), func(s *State) { s.Inode, s.Size, s.Unsettled = inode, 0, true })
	}
	over := time.Now().Add(-time.Second)
	for name, from := range map[string]*State{"made": nil, "brought": at(7, "/dir/b")} {
		var got []string
		source := &Source{Next: 1, settling: time.Hour, waiting: map[string]*waiting{}}
		look := func(pairs ...[2]*State) {
			r := &report{look: &look{}, source: source, moved: map[string]moved{}, taken: map[string]taken{}, broken: map[string]bool{},
				emit: func(e *filewatch.Event) error {
					got = append(got, fmt.Sprintf("%d: %v %s %s", e.Object.Inode, e.Op, e.PathNow(), e.Status))
					return nil
				}}
			r.promises()
			for _, p := range pairs {
				if err := r.tell(p[0], p[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
		first, second := at(6, "/dir/a"), at(7, "/dir/a")
		look([2]*State{nil, first})
		if from != nil {
			look([2]*State{nil, from})
		}
		for _, w := range source.waiting {
			if w.event.Object.Inode == 6 {
				w.last = over
			}
		}
		got = nil
		look([2]*State{first, nil}, [2]*State{from, second})
		if from != nil { // its event has been told: what follows is due
			look([2]*State{second, second})
		}
		want := map[string][]string{
			"made":    {"6: unlink /dir/a found", "7: create /dir/a found"},
			"brought": {"6: unlink /dir/a found", "7: rename /dir/a found", "7: create /dir/a found"},
		}[name]
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
