package vm

import (
	"context"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/tap"
)

// DiskWatcher watches one virtual machine by what is written to its disks. It needs
// no plugin in QEMU, and implements filewatch.Source.
type DiskWatcher struct {
	// Target names the machine in the events.
	Target string
	// QMP is the machine's monitor socket. It is held for a moment at each look.
	QMP string
	// Monitor, when not nil, is held while the monitor is.
	Monitor sync.Locker
	// Dir is where names and metadata of all files are kept while the watch lasts.
	Dir string
	// Rules select and grade the events, and say which contents are read. Nil takes
	// every one, at level verify.
	Rules *filewatch.Rules
	// Alert is told of losses and interruptions. Nil drops them.
	Alert func(filewatch.Alert)
	// Index is a baseline to judge events by. Nil judges nothing.
	Index *baseline.Index
	// Told, when not nil, gets the events in place of emit, with what a baseline that is
	// elsewhere needs to judge them.
	Told func(*filewatch.Event, Sight) error
	// Bound, when not nil, is called when the first look is done.
	Bound func()
	// Resets, when not empty, is the socket of another monitor, which is kept while the
	// watch lasts: resets of the guest are told then.
	Resets string
	// Every is the pause between looks; 0 means a second.
	Every time.Duration
	// Next is the sequence number of the next event; 0 means 1. It is kept current.
	Next uint64
}

var _ filewatch.Source = (*DiskWatcher)(nil)

// Sight is what an event of the disk path is judged by: the object as the disk has it
// now, or why there is none. All zero it is not measured: the event's verdict says why.
type Sight struct {
	Object *baseline.Record
	// Gone says that nothing has the path any more, Taken that another object has it, of
	// which an event of its own tells.
	Gone, Taken bool
}

// Events implements filewatch.Source.
func (w *DiskWatcher) Events(ctx context.Context, emit func(*filewatch.Event) error) error {
	source := &tap.Source{Target: w.Target, QMP: w.QMP, Root: w.Dir, Rules: w.Rules, Alert: w.Alert, Bound: w.Bound,
		Monitor: w.Monitor, Resets: w.Resets, Every: w.Every, Next: w.Next}
	if w.Index != nil {
		source.Names, source.Judge = names{w.Index}.Names, w.judge
	}
	if w.Told != nil {
		s := &sights{judge: source.Judge, told: w.Told}
		source.Judge, emit = s.look, s.emit
	}
	err := source.Events(ctx, emit)
	w.Next = source.Next
	return err
}

// contentOf is what is not known of an object whose content may be on its way. The
// size goes with the content: a file that is written anew is empty for a while.
const contentOf = filewatch.AttrSize | filewatch.AttrContent | filewatch.AttrSHA256 | filewatch.AttrGrowing

// judge puts the verdict into an event.
func (w *DiskWatcher) judge(e *filewatch.Event, now *tap.State) {
	path := e.PathNow()
	if e.Op == filewatch.OpLink {
		// What the baseline has at the new name is not the object of before any more.
		if had, err := w.Index.Path(e.NewPath); err != nil || len(had) > 0 {
			path = e.NewPath
		}
	}
	var got *baseline.Observed
	if now != nil {
		got = &baseline.Observed{Known: ^filewatch.Attributes(0), Record: *recordOf(now)}
		if e.Status == filewatch.Ongoing {
			got.Known &^= contentOf
		}
	}
	e.Verdict = verdict(w.Index, w.Rules, path, got)
}

func recordOf(s *tap.State) *baseline.Record {
	return &baseline.Record{Object: s.Object, Names: s.Names, BLAKE3: baseline.Digest(s.BLAKE3), SHA256: baseline.Digest(s.SHA256), Unread: s.Unread}
}

// sights puts what a source has an event judged by beside the event. It judges an event
// just before it emits it.
type sights struct {
	judge func(*filewatch.Event, *tap.State) // nil for none
	told  func(*filewatch.Event, Sight) error
	next  *Sight
}

func (s *sights) look(e *filewatch.Event, now *tap.State) {
	s.next = &Sight{Gone: now == nil}
	if now != nil {
		s.next.Object = recordOf(now)
		if len(now.Names) == 0 {
			s.next.Object.Names = []string{""} // as a baseline has it
		}
	}
	if s.judge != nil {
		s.judge(e, now)
	}
}

func (s *sights) emit(e *filewatch.Event) error {
	sight := s.next
	if s.next = nil; sight == nil {
		sight = &Sight{Taken: e.Verdict.Outcome == filewatch.NotJudged}
	}
	return s.told(e, *sight)
}
