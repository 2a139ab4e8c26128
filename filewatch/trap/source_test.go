package trap

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// script is a feed that gives records and then fails.
type script struct {
	records []*Record
	end     error
}

func (s *script) Records(ctx context.Context, emit func(*Record) error) error {
	for _, r := range s.records {
		if err := emit(r); err != nil {
			return err
		}
	}
	return s.end
}

func (s *script) Close() error { return nil }

func mkdir(seq uint64, path string) *Record {
	return &Record{Sequence: seq, Op: filewatch.OpMkdir, Path: Name{Path: path}, Actor: Task{TID: 1, Comm: "x"},
		Object: Inode{Number: seq, Mode: 0o040755}}
}

// follow runs a source over feeds and gives the numbers of its events.
func follow(t *testing.T, s *Source, feeds ...Feed) (numbers []uint64, alerts []filewatch.Alert, err error) {
	t.Helper()
	s.Connect = func(context.Context) (Feed, error) {
		if len(feeds) == 0 {
			return nil, ErrNoPlugin
		}
		f := feeds[0]
		feeds = feeds[1:]
		if f == nil {
			return nil, errors.New("still booting")
		}
		return f, nil
	}
	s.Alert = func(a filewatch.Alert) { alerts = append(alerts, a) }
	s.RetryEvery = time.Millisecond
	err = s.Events(t.Context(), func(e *filewatch.Event) error {
		numbers = append(numbers, e.Sequence)
		return nil
	})
	return numbers, alerts, err
}

func TestLossShowsInTheNumbersAndAsAnAlert(t *testing.T) {
	feed := &script{[]*Record{mkdir(1, "/a"), mkdir(2, "/b"), mkdir(7, "/c")}, io.EOF}
	numbers, alerts, err := follow(t, &Source{Target: "vm"}, feed)
	if diff := cmp.Diff([]uint64{1, 2, 7}, numbers); diff != "" || !errors.Is(err, io.EOF) {
		t.Errorf("%v, error %v", numbers, err)
	}
	if len(alerts) != 1 || alerts[0].Alert != filewatch.AlertGap || alerts[0].Lost != 4 || alerts[0].First != 3 || alerts[0].Target != "vm" {
		t.Errorf("alerts %+v", alerts)
	}
}

// A loss at the end of a burst, with nothing after it, must not wait for the
// next operation to be seen.
func TestLossAtTheEndShows(t *testing.T) {
	s := &Source{}
	numbers, alerts, _ := follow(t, s, &script{[]*Record{mkdir(1, "/a"), {Sequence: 1}, {Sequence: 4}, {Sequence: 4}}, io.EOF})
	if len(alerts) != 1 || alerts[0].Lost != 3 || len(numbers) != 1 || s.Next != 5 {
		t.Errorf("%v %+v, next %d", numbers, alerts, s.Next)
	}
}

func TestLossBeforeTheFirstRecordShows(t *testing.T) {
	numbers, alerts, _ := follow(t, &Source{}, &script{[]*Record{mkdir(3, "/a")}, io.EOF})
	if len(alerts) != 1 || alerts[0].Lost != 2 || numbers[0] != 3 {
		t.Errorf("%v %+v", numbers, alerts)
	}
}

func TestResetIsAGapAndTheNextKernelIsBound(t *testing.T) {
	s := &Source{Next: 100}
	numbers, alerts, err := follow(t, s,
		&script{[]*Record{mkdir(1, "/a")}, ErrReset}, nil, nil, &script{[]*Record{mkdir(1, "/b")}, io.EOF})
	if diff := cmp.Diff([]uint64{100, 102}, numbers); diff != "" || !errors.Is(err, io.EOF) {
		t.Errorf("%v, error %v", numbers, err)
	}
	if len(alerts) != 2 || alerts[0].Alert != filewatch.AlertRestart || alerts[0].First != 101 || alerts[1].Alert != filewatch.AlertWatch {
		t.Errorf("alerts %+v", alerts)
	}
	if s.Next != 103 {
		t.Errorf("next number %d", s.Next)
	}
}

func TestAfterAResetHopelessErrorsEndTheWatch(t *testing.T) {
	if _, _, err := follow(t, &Source{}, &script{nil, ErrReset}); !errors.Is(err, ErrNoPlugin) {
		t.Errorf("error %v", err)
	}
}

// baselineNames gives each object one old name.
type baselineNames map[uint64]string

func (b baselineNames) Names(id filewatch.ID) []string {
	if n, ok := b[id.Inode]; ok {
		return []string{n}
	}
	return nil
}

func TestRulesGradeEvents(t *testing.T) {
	rules, err := filewatch.ParseRules([]byte(`
[[rule]]
path = "/quiet/**"
level = "ignore"
[[rule]]
path = "/etc/**"
level = "protect"
[[rule]]
path = "/**"
level = "record"
`))
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{Rules: rules, Baseline: baselineNames{3: "/etc/shadow"}}
	renamed := mkdir(5, "/quiet/x")
	renamed.Op, renamed.NewPath = filewatch.OpRename, Name{Path: "/etc/x"}
	mounted := mkdir(6, "/hosts")
	mounted.Path.Mount = "/etc"
	for _, test := range []struct {
		name string
		rec  *Record
		want string
	}{
		{"ignored", mkdir(1, "/quiet/x"), "none"},
		{"plain", mkdir(2, "/home/x"), "record"},
		{"moved out of its place before the watch", mkdir(3, "/quiet/innocent"), "protect"},
		{"moved into a watched place", renamed, "protect"},
		{"below a mount point", mounted, "protect"},
	} {
		got := "none"
		if e := s.event(test.rec); e != nil {
			got = e.Level.String()
		}
		if got != test.want {
			t.Errorf("%s: level %s, want %s", test.name, got, test.want)
		}
	}
}

func TestEventSaysWhatIsKnown(t *testing.T) {
	r := record()
	r.Op, r.Marks, r.Detail = filewatch.OpSymlink, NotSettled|PathTruncated, "target"
	r.Object.Mode = 0o120777
	e := (&Source{Target: "vm"}).event(r)
	if e.Status != filewatch.Attempted || e.Detail != "the path could not be read whole" || e.Object.Link != "target" {
		t.Errorf("%+v", e)
	}
	if e.Path != "/mnt/\xff\n" || e.Object.Volume != "01020000-0000-0000-0000-000000000000" {
		t.Errorf("path %q, volume %q", e.Path, e.Object.Volume)
	}
	if e.Actor.UID != 5 || e.Actor.EUID != 3 || len(e.Actor.Ancestry) != MaxAncestors {
		t.Errorf("actor %+v", e.Actor)
	}
	if e := (&Source{}).event(&Record{Op: filewatch.OpMkdir}); e.Actor.Unknown == "" {
		t.Errorf("actor %+v of a record without one", e.Actor)
	}
}
