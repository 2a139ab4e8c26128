package verifier

import (
	"context"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// rotationPatience is how long a rescan for a log's sake may take before it is asked for
// again.
const rotationPatience = time.Hour

// leastRotationPause is the least time between two rescans for the sake of logs, which
// whoever may name files in a guest can have asked for; and how long one waits for the
// content behind an event to be on disk, where it looks.
const leastRotationPause = time.Minute

// suspectRotation asks for a rescan that tells whether a log was rotated, and for another
// one where one is under way, which may have looked before. settles says that the same
// event is judged again, once its content is on disk, and asks then: a rescan now would
// look too early.
func (t *taking) suspectRotation(settles bool) error {
	t.m.LogMoved = true
	return t.askAbout(settles)
}

// askAbout is suspectRotation for any reason.
func (t *taking) askAbout(settles bool) error {
	m, now := t.m, t.v.now()
	switch {
	case m.Rotated.IsZero():
		m.Rotated = now
	case m.RotationCommand != 0:
		m.RotatedAgain = true
		return nil
	}
	if settles || now.Before(m.RotationNext) {
		return nil // the schedule asks
	}
	changes, err := t.v.askAboutRotation(t.ctx, m)
	t.changes = append(t.changes, changes...)
	return err
}

// askAboutRotation asks for the rescan that ends a suspicion of rotation.
func (v *Verifier) askAboutRotation(ctx context.Context, m *machine) ([]store.Change, error) {
	m.RotationAsked, m.RotatedAgain = v.now(), false
	why := "a log was moved aside or cut"
	if m.Unjudged {
		why = "an event does not tell all that was done"
	}
	changes, err := v.askRescan(ctx, m, why)
	m.RotationCommand = m.rescan
	return changes, err
}

// rotationDue says that the schedule asks for the rescan: nobody did yet, or nothing came
// of it.
func (v *Verifier) rotationDue(m *machine) bool {
	now := v.now()
	if m.Rotated.IsZero() || m.MeasuredBy == "" || m.Files.Baseline == "" {
		return false
	}
	if m.RotationCommand != 0 {
		return now.Sub(m.RotationAsked) >= rotationPatience
	}
	return !now.Before(m.RotationNext) && now.Sub(m.Rotated) >= v.rotationPause
}

// rotationTold ends the suspicion that a rescan was asked for, unless there was another
// one since: the schedule asks again after a pause as long as the rescan took.
func (v *Verifier) rotationTold(m *machine) {
	if !m.RotatedAgain {
		m.Rotated, m.LogMoved, m.Unjudged = noTime, false, false
	}
	v.pauseRotation(m)
}

// pauseRotation notes that the rescan which was asked for is over.
func (v *Verifier) pauseRotation(m *machine) {
	now := v.now()
	m.RotationNext = now.Add(max(v.rotationPause, now.Sub(m.RotationAsked)))
	m.RotationCommand, m.RotatedAgain = 0, false
}

// leftRotation says that an event took an object from a place that is a rotation's by its
// name, and where the baseline has nothing: what it has of the log may have been there, as
// the last rescan found it. found is nil where no object is left.
func (t *taking) leftRotation(event *filewatch.Event, found *baseline.Observed) (bool, error) {
	if found != nil && event.Op != filewatch.OpRename {
		return false, nil
	}
	o := event.Object
	if o == nil {
		o = &filewatch.Object{Type: filewatch.TypeFile}
	}
	names := []string{event.Path}
	if found == nil && event.NewPath != "" {
		names = append(names, event.NewPath)
	}
	for _, name := range names {
		if !baseline.IsRotation(t.files.rules, name, o) {
			continue
		}
		if r, err := t.files.at(name, nil); r == nil || err != nil {
			return err == nil, err
		}
	}
	return false, nil
}
