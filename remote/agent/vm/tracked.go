package vm

import (
	"context"
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Tracked is a machine's files for one scan of everything that leaves behind what
// others build on: its state, once it came to its end, or what it read, when it was
// interrupted.
type Tracked struct {
	// Dir is where that is left.
	Dir string
	Place
	// Keep has Store store the state of the scan.
	Keep bool
	// Rules are those of the scan.
	Rules *filewatch.Rules
	// Resume and OnResume are as in [Since].
	Resume   *baseline.ProgressKey
	OnResume func(text string)

	src    namedGuest
	open   *opened
	resume *resuming
	snap   *baseline.Snapshot
	done   bool
}

// Open opens the disks. The caller closes them.
func (t *Tracked) Open(ctx context.Context) (err error) {
	if t.resume, err = t.openResuming(t.Dir, t.Resume, t.Rules, alone); err != nil {
		return err
	}
	if t.open, err = t.openSince(ctx, t.resume.source(time.Time{}), absolute(t.Dir), disk.Running.OpenSince); err != nil {
		t.resume.end(&err)
		return err
	}
	g, err := guest.OnDisks(t.open.set)
	if err == nil {
		if t.Keep {
			g.Remember = sorted.Dir(t.Dir)
		}
		t.src = namedGuest{g, t.Name}
		err = t.resume.begin(t.open, g, t.OnResume)
	}
	if err != nil {
		t.resume.end(&err)
		t.open.set.Close()
	}
	return err
}

// Machine says whose files they are.
func (t *Tracked) Machine() filewatch.Machine { return t.src.Machine() }

// Capture reads everything that is not taken over from an interrupted scan.
func (t *Tracked) Capture(ctx context.Context, o *baseline.CaptureOptions) (*baseline.Snapshot, error) {
	snap, err := t.resume.capture(ctx, t.open, t.src, o)
	if err != nil {
		return nil, err
	}
	t.snap = snap
	return snap, nil
}

// Resumed says what was taken over, nil where nothing was to be.
func (t *Tracked) Resumed() *Resumed {
	r, _ := t.resume.result(t.snap.Reused)
	return r
}

// Done says that the capture has been used: nobody will go on with it.
func (t *Tracked) Done() { t.done = true }

// Store stores the state of the scan, of which the baseline with the header was
// written.
func (t *Tracked) Store(h *baseline.Header) error {
	k := &baseline.Keep{Source: &t.open.state, Taken: t.open.at.UTC()}
	var err error
	if k.Memory, k.Files, err = t.src.Memory().Keep(); err == nil {
		_, err = t.snap.Remember(t.Dir, nil, h.Body.BLAKE3, k)
	}
	if err == nil && !t.open.still() {
		err = errors.New("an image was written to during the scan")
	}
	if err != nil {
		return errors.Join(err, baseline.Forget(t.Dir))
	}
	t.open.keep()
	return nil
}

// errNotDone: the scan did not come to its end.
var errNotDone = errors.New("the scan came to no end")

// Close lets go of the disks. It says with [ErrInterrupted] that a later scan can
// go on from here.
func (t *Tracked) Close() error {
	var err error
	if !t.done {
		err = errNotDone
	}
	t.resume.leave(t.open, err)
	closing := t.open.set.Close()
	t.resume.end(&err)
	if errors.Is(err, errNotDone) && !errors.Is(err, ErrInterrupted) {
		err = nil
	}
	return errors.Join(closing, err)
}
