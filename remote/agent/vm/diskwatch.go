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
	// Monitor, when not nil, is held while a look begins.
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
	// Bound, when not nil, is called when the first look is done.
	Bound func()
	// Every is the pause between looks; 0 means a second.
	Every time.Duration
	// Next is the sequence number of the next event; 0 means 1. It is kept current.
	Next uint64
}

var _ filewatch.Source = (*DiskWatcher)(nil)

// Events implements filewatch.Source.
func (w *DiskWatcher) Events(ctx context.Context, emit func(*filewatch.Event) error) error {
	source := &tap.Source{Target: w.Target, QMP: w.QMP, Root: w.Dir, Rules: w.Rules, Alert: w.Alert, Bound: w.Bound,
		Opening: w.Monitor, Every: w.Every, Next: w.Next}
	if w.Index != nil {
		source.Names, source.Judge = names{w.Index}.Names, w.judge
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
	path := pathNow(e)
	if e.Op == filewatch.OpLink {
		// What the baseline has at the new name is not the object of before any more.
		if had, err := w.Index.Path(e.NewPath); err != nil || len(had) > 0 {
			path = e.NewPath
		}
	}
	var got *baseline.Observed
	if now != nil {
		got = &baseline.Observed{Known: ^filewatch.Attributes(0), Record: baseline.Record{Object: now.Object, Names: now.Names,
			BLAKE3: baseline.Digest(now.BLAKE3), SHA256: baseline.Digest(now.SHA256), Unread: now.Unread}}
		if e.Status == filewatch.Ongoing {
			got.Known &^= contentOf
		}
	}
	e.Verdict = verdict(w.Index, w.Rules, path, got)
}
