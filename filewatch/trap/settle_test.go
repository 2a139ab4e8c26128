package trap

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// toyGuest is a guest with one object in memory and on disk.
type toyGuest struct {
	live    Live
	disk    filewatch.Object
	gone    bool
	lookErr error
	openErr error
	onRead  func() // what the guest does while the object is read
	opened  int
}

func (g *toyGuest) look(context.Context, *Record) (Live, error) { return g.live, g.lookErr }

func (g *toyGuest) open(context.Context) (Disk, error) {
	g.opened++
	return g, g.openErr
}

func (g *toyGuest) Object(id filewatch.ID) (*filewatch.Object, error) {
	if g.gone || id.Inode != g.disk.Inode {
		return nil, ErrGone
	}
	o := g.disk
	return &o, nil
}

func (g *toyGuest) Close() error { return nil }

func (g *toyGuest) read(Disk, *filewatch.Object) (any, error) {
	if g.onRead != nil {
		g.onRead()
	}
	return "content", nil
}

// at is a time of an object, in memory and on disk.
var at = time.Unix(1000, 5000).UTC()

func settledGuest() *toyGuest {
	return &toyGuest{
		live: Live{Cached: true, Size: 3, Mtime: at.UnixNano(), Ctime: at.UnixNano()},
		disk: filewatch.Object{Volume: "v", Inode: 1, Type: filewatch.TypeFile, Size: 3, Mtime: at, Ctime: at},
	}
}

func change(sequence uint64) (*filewatch.Event, *Record) {
	o := &filewatch.Object{Volume: "v", Inode: 1, Type: filewatch.TypeFile, Nlink: 1}
	return &filewatch.Event{Sequence: sequence, Op: filewatch.OpWrite, Level: filewatch.Verify, Object: o},
		&Record{Object: Inode{Number: 1, Nlink: 1, Ctime: at.UnixNano(), Mtime: at.UnixNano()}}
}

func settlerOf(g *toyGuest) (*Settler, *[]*Settled) {
	var done []*Settled
	return &Settler{Look: g.look, Open: g.open, Read: g.read, Done: func(s *Settled) { done = append(done, s) }}, &done
}

func TestSettlesWhenTheDiskHasCaughtUp(t *testing.T) {
	for _, test := range []struct {
		name    string
		spoil   func(*toyGuest)
		settles bool
	}{
		{"as in memory", func(*toyGuest) {}, true},
		{"dirty pages", func(g *toyGuest) { g.live.Dirty = true }, false},
		{"older inode on disk", func(g *toyGuest) { g.disk.Mtime = at.Add(-time.Microsecond) }, false},
		{"older ctime on disk", func(g *toyGuest) { g.disk.Ctime = at.Add(-time.Hour) }, false},
		{"shorter on disk", func(g *toyGuest) { g.disk.Size = 0 }, false},
		{"not yet on disk", func(g *toyGuest) { g.gone = true }, false},
		{"seconds on disk", func(g *toyGuest) { g.disk.Mtime, g.disk.Ctime = at.Truncate(time.Second), at.Truncate(time.Second) }, true},
		{"dropped from memory", func(g *toyGuest) { g.live = Live{} }, true},
		{"dropped from memory, journal not written", func(g *toyGuest) { g.live, g.disk.Ctime = Live{}, at.Add(-time.Minute) }, false},
		{"dropped from memory, times put back", func(g *toyGuest) { g.live, g.disk.Mtime = Live{}, at.Add(-time.Hour) }, true},
		{"changes while read", func(g *toyGuest) { g.onRead = func() { g.live.Dirty = true } }, false},
		{"memory cannot be told", func(g *toyGuest) { g.lookErr = errors.New("closed") }, false},
		{"disk cannot be read", func(g *toyGuest) { g.openErr = errors.New("locked") }, false},
	} {
		g := settledGuest()
		test.spoil(g)
		s, done := settlerOf(g)
		s.Add(change(1))
		s.round(t.Context())
		if got := len(*done) == 1; got != test.settles {
			t.Errorf("%s: settled %v", test.name, got)
		}
	}
}

func TestRemovedWhileWaitedFor(t *testing.T) {
	g := settledGuest()
	g.live, g.gone = Live{}, true
	s, done := settlerOf(g)
	s.Add(change(1))
	s.round(t.Context())
	if len(*done) != 1 || !errors.Is((*done)[0].Err, ErrGone) {
		t.Errorf("%+v", *done)
	}
	e, r := change(2)
	s.Add(e, r)
	gone, r := change(3)
	gone.Op = filewatch.OpUnlink
	s.Add(gone, r)
	if len(s.pending) != 0 {
		t.Error("a removed object is waited for")
	}
}

func TestLaterEventTakesTheWaitOver(t *testing.T) {
	g := settledGuest()
	s, done := settlerOf(g)
	s.Add(change(1))
	g.onRead = func() { s.Add(change(2)); g.onRead = nil }
	s.round(t.Context())
	if len(*done) != 0 {
		t.Fatalf("the first event was completed with the second's content: %+v", *done)
	}
	s.round(t.Context())
	if len(*done) != 1 || (*done)[0].Event.Sequence != 2 || (*done)[0].Result != "content" {
		t.Errorf("%+v", *done)
	}
}

func TestPatienceEnds(t *testing.T) {
	g := settledGuest()
	g.live.Dirty = true
	s, done := settlerOf(g)
	s.Patience = time.Nanosecond
	s.Add(change(1))
	time.Sleep(time.Millisecond)
	s.round(t.Context())
	if len(*done) != 1 || !errors.Is((*done)[0].Err, ErrNotSettled) {
		t.Errorf("%+v", *done)
	}
	if g.opened != 0 {
		t.Error("the disk was read for a dirty object")
	}
}

func TestForgetTellsOfEach(t *testing.T) {
	s, done := settlerOf(settledGuest())
	s.Add(change(1))
	reason := errors.New("reset")
	s.Forget(reason)
	s.round(t.Context())
	if len(*done) != 1 || !errors.Is((*done)[0].Err, reason) {
		t.Errorf("%+v", *done)
	}
}

func TestWaitingIsBounded(t *testing.T) {
	g := settledGuest()
	g.live.Dirty = true
	s, done := settlerOf(g)
	for i := range uint64(maxWaiting + 5) {
		e, r := change(i)
		e.Object.Inode = i + 1
		s.Add(e, r)
	}
	s.round(t.Context())
	crowded := 0
	for _, d := range *done {
		if errors.Is(d.Err, ErrCrowded) {
			crowded++
		}
	}
	if crowded != 5 || crowded != len(*done) || len(s.pending) > maxWaiting {
		t.Errorf("%d given up, %d waited for", crowded, len(s.pending))
	}
}

func TestWhatIsNotWaitedFor(t *testing.T) {
	for name, spoil := range map[string]func(*filewatch.Event, *Record){
		"record level": func(e *filewatch.Event, _ *Record) { e.Level = filewatch.Record },
		"refused":      func(e *filewatch.Event, _ *Record) { e.Status = filewatch.Denied },
		"no name":      func(_ *filewatch.Event, r *Record) { r.Marks = Unlinked },
		"removed":      func(e *filewatch.Event, _ *Record) { e.Op = filewatch.OpRmdir },
		"unknown":      func(e *filewatch.Event, _ *Record) { e.Object.Inode = 0 },
	} {
		s, _ := settlerOf(settledGuest())
		e, r := change(1)
		spoil(e, r)
		s.Add(e, r)
		if len(s.pending) != 0 {
			t.Errorf("%s: waited for", name)
		}
	}
	s, _ := settlerOf(settledGuest())
	e, r := change(1)
	e.Op, r.Object.Nlink = filewatch.OpUnlink, 2
	s.Add(e, r)
	if len(s.pending) != 1 {
		t.Error("one of two names removed: the object is still there")
	}
}
