package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
)

// Resumed says what a scan took over from earlier ones that were interrupted.
type Resumed struct {
	// Since is when the first of them began, Times how often it was interrupted.
	Since time.Time `json:"since"`
	Times int       `json:"interruptions"`
	// Objects and Bytes are of contents that were not read again.
	Objects uint64 `json:"objects"`
	Bytes   int64  `json:"bytes"`
	// Anew are volumes of which every content was read again.
	Anew []filewatch.Gap `json:"anew,omitempty"`
}

// ErrInterrupted: a scan came to no end, and the next one can go on from where it
// was.
var ErrInterrupted = errors.New("the scan was interrupted; what it read is kept")

// resuming is the progress of one scan of everything.
type resuming struct {
	*baseline.Progress
	earlier []baseline.ProgressPart // those that this scan goes on from
	begun   bool
	since   time.Time
	times   int
	lost    string // why nothing is taken over
	refused []filewatch.Gap
}

// picture is what is kept of the disks at each start of a scan.
type picture struct {
	sourceState
	// Boot tells starts of this host apart: the times of a file need not have
	// come to its disk with its content when the host broke down.
	Boot string `json:"boot,omitempty"`
}

// openResuming opens the progress of scans of a place under rules, set against a
// baseline whose records have the given digest. For a nil key there is none.
func (p *Place) openResuming(dir string, key *baseline.ProgressKey, rules *filewatch.Rules, against string) (*resuming, error) {
	if key == nil {
		return nil, nil
	}
	bind := []string{p.String(), p.Name, string(rules.Text()), against}
	if p.Template != "" {
		// The copies of a template share its state; each has a progress of its own.
		bind = append(bind, absolute(p.Images[0]))
		dir += "-" + trackID(absolute(p.Images[0]))
	}
	file, err := baseline.OpenProgress(dir+".progress", *key, bind...)
	if err != nil {
		return nil, err
	}
	return &resuming{Progress: file, earlier: file.Parts(), lost: file.Lost}, nil
}

// source is what the disks were at the start of the interrupted scan, nil when
// there is none that is newer than the last finished one.
func (r *resuming) source(finished time.Time) json.RawMessage {
	if r == nil || len(r.Parts()) == 0 {
		return nil
	}
	if first := r.Parts()[0]; first.Taken.After(finished) {
		return first.Source
	}
	r.drop("a later scan came to its end")
	return nil
}

func (r *resuming) drop(reason string) {
	r.lost, r.earlier = reason, nil
	r.Drop(reason)
}

// begin starts a scan, from what is there where that holds. tell, if not nil, is
// called with what people should know. Called again, the same scan goes on with
// another guest.
func (r *resuming) begin(o *opened, g *guest.Guest, tell func(string)) error {
	if r == nil {
		return nil
	}
	if r.begun {
		return r.goOn(o, g)
	}
	if tell == nil {
		tell = func(string) {}
	}
	moment, err := g.Moment()
	if err != nil {
		return err
	}
	found := r.Contents()
	if err := r.goOn(o, g); err != nil {
		r.drop(err.Error())
	}
	switch {
	case r.lost != "":
		tell("nothing of the interrupted scan is taken over: " + r.lost)
	case r.times > 0:
		tell(fmt.Sprintf("going on with the scan of %s: %d contents were read", r.since.Format(time.RFC3339), found))
	}
	for _, v := range r.refused {
		tell(fmt.Sprintf("all contents of %s are read again: %s", v.What, v.Reason))
	}
	if why := o.unsteady(); why != "" {
		tell("this scan cannot be gone on with if it is interrupted: " + why)
		r.drop(r.lost)
		return nil
	}
	now := picture{sourceState: o.state, Boot: boot()}
	now.Images = o.images
	if o.set.Track.ID != "" {
		basis := o.set.Basis()
		now.Track = &basis
	}
	part := &baseline.ProgressPart{Taken: o.at.UTC()}
	if part.Source, err = json.Marshal(now); err != nil {
		return err
	}
	if part.Moment, err = json.Marshal(moment); err != nil {
		return err
	}
	r.begun = true
	return r.Begin(part)
}

// capture reads everything that is not taken over.
func (r *resuming) capture(ctx context.Context, from *opened, src baseline.PlacedSource, o *baseline.CaptureOptions) (*baseline.Snapshot, error) {
	if r == nil || !r.begun {
		return baseline.Capture(ctx, src, o)
	}
	snap, err := baseline.CaptureResumed(ctx, src, r.Progress, o)
	if err == nil {
		if err = r.torn(from); err != nil {
			snap.Close()
			return nil, err
		}
	}
	return snap, err
}

// progress is what a capture keeps what it reads in, nil for nothing.
func (r *resuming) progress() *baseline.Progress {
	if r == nil || !r.begun {
		return nil
	}
	return r.Progress
}

// torn says at the end of a scan that what it took over is of another moment than
// the rest.
func (r *resuming) torn(from *opened) error {
	if r == nil || r.times == 0 || from.still() {
		return nil
	}
	r.begun = false
	return errWritten
}

var errWritten = errors.New("an image was written to while the scan went on from an interrupted one")

// goOn prepares the guest to tell what reads as it did.
func (r *resuming) goOn(o *opened, g *guest.Guest) error {
	if len(r.earlier) == 0 {
		return nil
	}
	var changed map[int][]filewatch.Extent
	var moments []guest.Moment
	for i, part := range r.earlier {
		var then picture
		var moment guest.Moment
		if err := errors.Join(json.Unmarshal(part.Source, &then), json.Unmarshal(part.Moment, &moment)); err != nil {
			return err
		}
		if len(then.Images) > 0 && then.Boot != boot() {
			return errors.New("this host was started anew since: where it broke down, the times of an image need not tell that it was written to")
		}
		if i == 0 {
			var reason string
			if changed, reason = o.changedSince(then.Images); reason != "" {
				return errors.New(reason)
			}
		}
		moments = append(moments, moment)
	}
	var err error
	if r.refused, err = g.GoOn(moments, changed); err != nil {
		return err
	}
	r.since, r.times = r.earlier[0].Taken, len(r.earlier)
	return nil
}

// unsteady says why a later scan could not know that the disks are what they are
// now, "" when it can.
func (o *opened) unsteady() string {
	if o.set.Track.ID != "" {
		return ""
	}
	if o.unknown != "" {
		return o.unknown
	}
	for _, s := range o.images {
		if s.Seen.Sub(s.Mtime) < settled || s.Seen.Sub(s.Ctime) < settled {
			return s.Path + " was written to just now"
		}
	}
	return ""
}

// result is what was taken over, nil where nothing was to be, and why not.
func (r *resuming) result(taken baseline.Reused) (*Resumed, string) {
	if r == nil || r.times == 0 {
		return nil, r.why()
	}
	return &Resumed{r.since, r.times, taken.Objects, taken.Bytes, r.refused}, ""
}

func (r *resuming) why() string {
	if r == nil {
		return ""
	}
	return r.lost
}

// leave sees that QEMU collects for whoever goes on from here what is written, or
// for nobody. It comes before the disks are closed.
func (r *resuming) leave(o *opened, err error) {
	switch {
	case r == nil || !r.begun:
	case err != nil:
		o.set.KeepBasis()
	case !o.kept:
		o.set.Drop()
	}
}

// end lets go of the progress: for good once the scan came to its end, else for a
// later scan to go on from.
func (r *resuming) end(err *error) {
	if r == nil {
		return
	}
	if *err == nil {
		*err = r.Remove()
		return
	}
	if e := r.Close(); e == nil && r.begun {
		*err = fmt.Errorf("%w (%w)", *err, ErrInterrupted)
	}
}

// boot names the present start of this host, "" where nothing does.
func boot() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
