package verifier

import (
	"encoding/json"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// diskPath says that an event was concluded from a machine's disks. Nobody saw the
// operation, and what there is to judge came with the event.
func diskPath(e *filewatch.Event) bool { return e.Source == "tap" }

// seenOf is the object that came with an event of the disk path, nil for none.
func (t *taking) seenOf(e *remote.Event) *baseline.Record {
	if len(e.Object) == 0 || string(e.Object) == "null" {
		return nil
	}
	r := new(baseline.Record)
	if err := json.Unmarshal(e.Object, r); err != nil {
		t.note("file", remote.SeverityAlert, eventID(t.m.tag(), e.Stream, e.Sequence), "the object behind a file event of %s was refused: %v", t.m.Name, err)
		return nil
	}
	return r
}

// observed is an object as the disk path shows it: with all its names, unless it could
// not be read whole.
func observed(seen *baseline.Record) *baseline.Observed {
	known := ^filewatch.Attributes(0)
	if seen.Unread != "" {
		known = onDisk
	}
	return &baseline.Observed{Record: *seen, Known: known}
}

// contentOf is what is not known of an object whose content may be on its way. The size
// goes with the content: a file that is written anew is empty for a while.
const contentOf = filewatch.AttrSize | filewatch.AttrContent | filewatch.AttrSHA256 | filewatch.AttrGrowing

// judgeOngoing judges an event of the disk path by all but the content, which may be in
// the guest's memory still: another event has it.
func (t *taking) judgeOngoing(f *remote.FileEvent, event *filewatch.Event, seen *baseline.Record) error {
	found := observed(seen)
	found.Known &^= contentOf
	err := t.judge(f, event, found, true)
	if f.Verdict == remote.VerdictUnknown {
		f.Verdict, f.Detail = remote.VerdictPending, "its content is compared once it is on disk"
	}
	return err
}

// judgeFound judges an event of the disk path by what is at its path now.
func (t *taking) judgeFound(f *remote.FileEvent, e *remote.Event, event *filewatch.Event, seen *baseline.Record) error {
	switch {
	case seen != nil:
	case e.Absent == remote.AbsentGone:
		return t.judge(f, event, nil, false)
	case e.Absent == remote.AbsentTaken:
		f.Verdict, f.Detail = remote.VerdictOvertaken, "another object has its name now, whose event is compared instead"
		return nil
	default:
		return t.notMeasured(f, event.Verdict.Reason)
	}
	if event.Op == filewatch.OpLink && event.Path != "" {
		// What the baseline has at the new name is not the object of before any more.
		if r, err := t.files.at(event.NewPath, seen); err != nil {
			return err
		} else if r != nil {
			linked := *event
			linked.Path, linked.NewPath = event.NewPath, ""
			event = &linked
		}
	}
	if err := t.overtake(f); err != nil {
		return err
	}
	if err := t.judge(f, event, observed(seen), false); err != nil {
		return err
	}
	if event.Op == filewatch.OpUnknown && f.Verdict == remote.VerdictUnchanged {
		return t.notMeasured(f, event.Detail)
	}
	return t.leftBehind(event, seen)
}

// leftBehind asks for a rescan where an event of a rename does not tell all: of what is
// below a directory, and of what the baseline has where the object was, where the object
// was held to something else.
func (t *taking) leftBehind(event *filewatch.Event, seen *baseline.Record) error {
	if event.Op != filewatch.OpRename {
		return nil
	}
	if event.Below > 0 {
		return t.unjudged()
	}
	was, err := t.files.at(event.Path, seen)
	if was == nil || err != nil {
		return err
	}
	held, err := t.files.wanted(event.NewPath, event, seen)
	if err == nil && (held == nil || held.ID() != was.ID()) {
		err = t.unjudged()
	}
	return err
}

// notMeasured says why nothing is known of the object of an event.
func (t *taking) notMeasured(f *remote.FileEvent, why string) error {
	f.Verdict, f.Detail = remote.VerdictUnknown, "it is not measured"
	if why != "" {
		f.Detail = "it is not measured: " + filewatch.PrintablePath(why)
	}
	return t.unjudged()
}

// unjudged asks for a rescan that tells what an event does not. Until it has, the machine
// is not known to be as it should be.
func (t *taking) unjudged() error {
	t.m.Unjudged = true
	return t.askAbout(false)
}
