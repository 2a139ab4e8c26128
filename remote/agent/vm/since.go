package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Since steers a scan that takes from the last one what certainly did not change.
type Since struct {
	Place
	// Dir is where the state of the last scan is, and that of this one will be.
	Dir string
	// Baseline is compared with, under Rules, which Capture has as well.
	Baseline *baseline.Baseline
	Rules    *filewatch.Rules
	// FullEvery has every n-th scan read everything; 0 for never.
	FullEvery int
	Capture   baseline.CaptureOptions
	// Logs are what another one's baseline has of growing files, with which Write tells
	// where they are: see baseline.CaptureOptions.FollowLogs.
	Logs []baseline.Log
	// Once has the scan read everything and leave no state for the next one.
	Once bool
	// Resume, if not nil, has a scan of everything keep what it read, so that one
	// after an interruption goes on from there; it is the key of what is kept.
	Resume *baseline.ProgressKey
	// OnFull, if not nil, is called before everything is read, with the reason.
	OnFull func(reason string)
	// Look, if not nil, is given all that was found before Check returns, while it
	// can be read. An error that it returns may lead to a scan of everything, with
	// which it is called again.
	Look func(*baseline.State) error
	// OnResume, if not nil, is called before everything is read, with what there is
	// to say about going on from an earlier scan, or from this one.
	OnResume func(text string)
}

// How says how a scan came to its result.
type How struct {
	// Full says that everything was read; Reason why.
	Full   bool   `json:"full"`
	Reason string `json:"reason,omitempty"`
	// Whole are volumes that were read whole in a scan that was not full.
	Whole []filewatch.Gap `json:"whole,omitempty"`
	// Looked counts the objects that were looked at, Bytes the content read.
	Looked uint64 `json:"looked_at"`
	Bytes  int64  `json:"bytes_read"`
	// Since is when the state was seen that was built on, LastFull when everything
	// was last read.
	Since    time.Time `json:"since,omitzero"`
	LastFull time.Time `json:"last_full,omitzero"`
	// NotKept says why the next scan cannot build on this one.
	NotKept string `json:"not_kept,omitempty"`
	// Resumed says what was taken over from interrupted scans, Anew why nothing was.
	Resumed *Resumed `json:"resumed,omitempty"`
	Anew    string   `json:"anew,omitempty"`
}

// Check compares a machine's files with a baseline. What the last scan left behind
// is used where it holds; whenever that is not certain, everything is read and How
// says why. The result is that of reading everything.
func (s *Since) Check(ctx context.Context) (report *baseline.Report, how *How, err error) {
	how, err = s.scan(ctx, &s.Baseline.Header, func(f found) (err error) {
		switch {
		case f.stored != nil:
			report, err = f.stored.Report(&s.Baseline.Header, s.Rules)
		case f.snap != nil:
			report, err = baseline.Compare(s.Baseline, f.snap)
		default:
			report, err = f.update.Report(&s.Baseline.Header)
		}
		if err != nil || s.Look == nil {
			return err
		}
		state, err := f.state(s.Rules)
		if err != nil {
			return err
		}
		return s.Look(state)
	})
	return report, how, err
}

// Write captures a machine's files as Check does and writes them as a baseline;
// Baseline is nil.
func (s *Since) Write(ctx context.Context, out io.Writer, e *baseline.Edition, key sign.Signer) (h *baseline.Header, how *How, err error) {
	against, err := s.standIn()
	if err != nil {
		return nil, &How{}, err
	}
	how, err = s.scan(ctx, &baseline.Header{Body: baseline.Body{BLAKE3: against}}, func(f found) (err error) {
		switch {
		case f.stored != nil:
			if err := f.stored.Verify(); err != nil {
				return err
			}
			h, err = f.stored.Write(out, s.Rules, e, key)
		case f.snap != nil:
			h, err = f.snap.Write(out, e, key)
		default:
			return errors.New("the state of the scan could not be stored")
		}
		if err != nil {
			return &writeError{err}
		}
		return nil
	})
	return h, how, err
}

// writeError is an error after which nothing may be written again.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// alone stands for a baseline in a state that is compared with none here.
const alone = "none"

// standIn is alone, and says which logs were looked for: a state in which others were
// is another one.
func (s *Since) standIn() (string, error) {
	if len(s.Logs) == 0 {
		return alone, nil
	}
	logs, err := json.Marshal(s.Logs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, logs %x", alone, blake3.Sum256(logs)), nil
}

// found is what a scan found, in one of three forms.
type found struct {
	stored *baseline.Last
	snap   *baseline.Snapshot // of everything
	update *baseline.Update   // of what changed
}

// state is all of it.
func (f *found) state(rules *filewatch.Rules) (*baseline.State, error) {
	switch {
	case f.stored != nil:
		return f.stored.State(rules), nil
	case f.snap != nil:
		return f.snap.State(), nil
	}
	return f.update.State()
}

func (s *Since) scan(ctx context.Context, against *baseline.Header, use func(found) error) (*How, error) {
	c := &sinceScan{Since: s, against: against, use: use, how: &How{}}
	var last *baseline.Last
	if !s.Once {
		var err error
		if last, err = baseline.OpenLast(s.Dir, against, s.Rules); err != nil {
			last = nil
			c.how.Reason = err.Error()
		}
	}
	var err error
	if c.resume, err = s.openResuming(s.Dir, s.Resume, s.Rules, against.Body.BLAKE3); err != nil {
		return c.how, err
	}
	return c.how, c.run(ctx, last)
}

type sinceScan struct {
	*Since
	against *baseline.Header
	use     func(found) error
	how     *How
	open    *opened
	resume  *resuming // nil where nothing is kept
}

func (c *sinceScan) run(ctx context.Context, last *baseline.Last) (err error) {
	defer func() { c.resume.end(&err) }()
	var raw []byte
	var taken time.Time
	if last != nil {
		raw = last.Source()
		var scans int
		taken, _, scans = last.Taken()
		if c.FullEvery > 0 && scans+1 >= c.FullEvery {
			c.how.Reason = fmt.Sprintf("the last one is %d scans ago", scans+1)
		}
	}
	if c.Template == "" { // else the state is the template's, and holds or does not
		if interrupted := c.resume.source(taken); interrupted != nil {
			raw = interrupted
			c.how.Reason = "one was interrupted"
		}
	}
	if c.open, err = c.openDisks(ctx, raw, c.running(last)); err != nil {
		return err
	}
	defer func() {
		c.resume.leave(c.open, err)
		if e := c.open.set.Close(); e != nil && err == nil {
			c.how.NotKept = e.Error()
		}
	}()
	if c.how.Reason == "" && !c.Once {
		c.how.Reason = c.open.reason
	}
	if c.how.Reason == "" && !c.Once {
		err = c.follow(ctx, last)
		if err == nil || ctx.Err() != nil || c.how.Reason == "" {
			return err
		}
		if err := c.openWhole(ctx, raw); err != nil {
			return err
		}
	}
	c.how.Full, c.how.Since, c.how.LastFull = true, time.Time{}, time.Time{}
	if c.OnFull != nil && !c.Once {
		c.OnFull(c.how.Reason)
	}
	return c.full(ctx)
}

// running is how the disks of a running machine are opened: where nothing was
// written and there is nothing to look at again, they need not be.
func (c *sinceScan) running(last *baseline.Last) openRunning {
	if last == nil || c.Once || c.how.Reason != "" || len(last.Again()) > 0 {
		return disk.Running.OpenSince
	}
	return disk.Running.OpenChanged
}

func (c *sinceScan) openDisks(ctx context.Context, raw []byte, running openRunning) (*opened, error) {
	return c.openSince(ctx, raw, absolute(c.Dir), running)
}

// openWhole opens the disks for reading where that seemed not, or no longer, to be
// needed.
func (c *sinceScan) openWhole(ctx context.Context, raw []byte) error {
	if !c.open.set.Same && !c.open.set.Released() {
		return nil
	}
	if err := c.open.set.Close(); err != nil {
		return err
	}
	open, err := c.openDisks(ctx, raw, disk.Running.OpenSince)
	if err == nil {
		c.open = open
	}
	return err
}

// follow builds on the last state. With an error, How.Reason says why everything
// must be read instead; without a reason it is an error of the disk.
func (c *sinceScan) follow(ctx context.Context, last *baseline.Last) error {
	taken, full, _ := last.Taken()
	c.how.Since, c.how.LastFull = taken, full
	if c.open.quiet() && len(last.Again()) == 0 {
		if err := c.ours(last.Machine()); err != nil {
			return err
		}
		c.store(func(k *baseline.Keep) error { return last.Repeat(k) })
		return c.unusable(c.use(found{stored: last}))
	}
	raw, err := last.Memory()
	if err != nil {
		return c.unusable(err)
	}
	memory, err := guest.ParseMemory(c.Dir, raw)
	if err != nil {
		return c.unusable(err)
	}
	g, err := c.guest()
	if err != nil {
		return err
	}
	if c.Template == "" {
		g.Remember = sorted.Dir(c.Dir)
	}
	following, err := g.Follow(ctx, memory, c.open.set.Changed, last.Again())
	if err != nil {
		return c.unusable(err)
	}
	if c.Template != "" {
		if err := c.resume.begin(c.open, g, c.OnResume); err != nil {
			return err
		}
	}
	update, err := baseline.CaptureSince(ctx, namedFollowing{namedGuest{g, c.Name}, following}, last, c.resume.progress(), &c.Capture)
	if err != nil {
		if errors.Is(err, guest.ErrMemory) || errors.Is(err, baseline.ErrDamaged) || errors.Is(err, baseline.ErrLast) {
			return c.unusable(err)
		}
		return err
	}
	defer update.Close()
	if err := c.resume.torn(c.open); err != nil {
		return err
	}
	c.open.set.Release()
	c.how.Resumed, c.how.Anew = c.resume.result(update.Reused())
	c.how.Whole, c.how.Looked, c.how.Bytes = following.Touched().Whole, update.Touched(), update.Bytes()
	out := found{update: update}
	if c.Template == "" {
		c.store(func(k *baseline.Keep) (err error) {
			if k.Memory, k.Files, err = g.Memory().Keep(); err != nil {
				return err
			}
			out.stored, err = update.Remember(k)
			return err
		})
	}
	return c.unusable(c.use(out))
}

// unusable notes an error that reading everything may mend.
func (c *sinceScan) unusable(err error) error {
	var written *writeError
	if err != nil && !errors.As(err, &written) {
		c.how.Reason = err.Error()
	}
	return err
}

// full reads everything.
func (c *sinceScan) full(ctx context.Context) error {
	g, err := c.guest()
	if err != nil {
		return err
	}
	if c.Template == "" && !c.Once {
		g.Remember = sorted.Dir(c.Dir)
	}
	options := c.Capture
	if len(c.Logs) > 0 {
		options.FollowLogs(c.Logs)
	}
	if c.Baseline != nil {
		// What takes long is not done for one that is damaged.
		if err := c.Baseline.Verified(); err != nil {
			return err
		}
		if err := options.Follow(c.Baseline); err != nil {
			return err
		}
	}
	if err := c.resume.begin(c.open, g, c.OnResume); err != nil {
		return err
	}
	snap, err := c.resume.capture(ctx, c.open, namedGuest{g, c.Name}, &options)
	if err != nil {
		return err
	}
	defer snap.Close()
	c.how.Looked, c.how.Bytes, c.how.LastFull = snap.Objects, snap.Bytes, c.open.at
	c.how.Resumed, c.how.Anew = c.resume.result(snap.Reused)
	out := found{snap: snap}
	if c.Template == "" && !c.Once {
		c.store(func(k *baseline.Keep) (err error) {
			if k.Memory, k.Files, err = g.Memory().Keep(); err != nil {
				return err
			}
			out.stored, err = snap.Remember(c.Dir, c.Baseline, c.against.Body.BLAKE3, k)
			return err
		})
	}
	return c.use(out)
}

// ours sees that the baseline is of the machine.
func (c *sinceScan) ours(m filewatch.Machine) error {
	if m.Name = c.Name; c.Template != "" {
		m.Name = "" // a copy has a name of its own
	}
	return c.against.CheckMachine(m)
}

// store stores the state of the scan. What keeps it from being stored is no error
// of the scan: the next one reads everything.
func (c *sinceScan) store(write func(*baseline.Keep) error) {
	err := write(&baseline.Keep{Source: &c.open.state, Taken: c.open.at.UTC()})
	if err == nil && !c.open.still() {
		err = errors.New("an image was written to during the scan")
	}
	if err != nil {
		c.how.NotKept = err.Error()
		baseline.Forget(c.Dir) // it is of no use, and must not be taken for one
		return
	}
	c.open.keep()
}

// guest puts the volumes together.
func (c *sinceScan) guest() (*guest.Guest, error) {
	g, err := guest.OnDisks(c.open.set)
	if err != nil {
		return nil, err
	}
	return g, c.ours(g.Machine())
}
