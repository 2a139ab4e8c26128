package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// tool names this program in the baselines it writes.
const tool = "plumbline verifier"

// baselineKey signs the baselines that the verifier keeps, and remembers the
// one that was last read for each machine.
type baselineKey struct {
	key *sign.Key

	mu     sync.Mutex
	opened map[string]*openedBaseline // by machine
}

// openedBaseline is a baseline indexed for single lookups.
type openedBaseline struct {
	digest string
	file   *baseline.Baseline
	index  *baseline.Index
}

func openBaselineKey(dir string) (*baselineKey, error) {
	key, err := sign.LoadOrCreateKey(filepath.Join(dir, "baseline-key.pem"))
	if err != nil {
		return nil, fmt.Errorf("baseline key: %w", err)
	}
	return &baselineKey{key: key, opened: make(map[string]*openedBaseline)}, nil
}

// askFiles makes the changes that have a machine's files captured: as its new
// baseline, or to be compared with the one it has.
func (v *Verifier) askFiles(ctx context.Context, m *machine, kind remote.CommandKind, who, why string) ([]store.Change, error) {
	agent := m.MeasuredBy
	if agent == "" {
		return nil, apiError(409, remote.CodeConflict, "no host reports about the files of "+m.Name, "set measured_by for this host")
	}
	command := remote.Command{Kind: kind, Target: m.Name, Reason: why}
	if kind == remote.CommandRescan {
		files, err := v.filesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		if files.base != nil {
			if command.Logs, _, err = files.base.file.Logs(files.rules, maxLogs); err != nil {
				return nil, err
			}
		}
	}
	changes, err := v.command(ctx, agent, command)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprint(commandID(changes))
	return append(changes, create(inAsked, key, m.Name, v.now(), asked{Kind: kind, Machine: m.Name, Who: who})), nil
}

// maxLogs bounds, in bytes of a command, which growing files an agent is asked to look
// for: the commands for all its targets are one answer. What it was not asked for counts
// as not compared once it has grown.
const maxLogs = 256 << 10

// askFirstBaseline asks for the baseline of a machine that is watched and has
// none, and asks again when none has come for a while.
func (v *Verifier) askFirstBaseline(ctx context.Context, m *machine) ([]store.Change, error) {
	if m.Files.Baseline != "" || m.MeasuredBy == "" || v.now().Sub(m.BaselineAsked) < firstBaselineEvery {
		return nil, nil
	}
	m.BaselineAsked = v.now()
	open, err := list[remote.Command](ctx, v.store, store.Query{Collection: inCommands, Machine: m.MeasuredBy})
	if err != nil || slices.ContainsFunc(open, func(c *doc[remote.Command]) bool {
		return c.V.Kind == remote.CommandBaseline && c.V.Target == m.Name
	}) {
		return nil, err // the agent is away or at it
	}
	return v.askFiles(ctx, m, remote.CommandBaseline, "", "it is watched and has no baseline")
}

// firstBaselineEvery is how long a capture may take before it is asked again.
const firstBaselineEvery = 10 * time.Minute

// asked remembers what a command was for after the agent has taken it.
type asked struct {
	Kind    remote.CommandKind `json:"kind"`
	Machine string             `json:"machine"`
	Who     string             `json:"who,omitempty"` // the person; empty: the verifier itself
}

// words say how a baseline came to be that answers the question.
func (a asked) words() string {
	if a.Who == "" {
		return "taken when the machine was first watched, trusted on first use"
	}
	return "taken at the request of " + a.Who
}

// takeBaseline takes a capture of a machine's files. It becomes the baseline
// when a person asked for one, or when there is none yet; otherwise it is
// compared with the baseline.
func (v *Verifier) takeBaseline(ctx context.Context, r store.Record, b *remote.Baseline) error {
	if _, err := v.targetOf(ctx, r, b.Target); err != nil {
		return err
	}
	data, err := v.store.Body(ctx, b.Manifest)
	if isNotFound(err) {
		return v.awaitManifest(ctx, r)
	}
	if err != nil {
		return err
	}
	captured, err := baseline.OpenBytes(data, &baseline.OpenOptions{AnySigner: true})
	if err == nil {
		err = usable(captured)
	}
	if err != nil {
		return &badRecordError{fmt.Errorf("capture of %s: %w", b.Target, err)}
	}
	var question asked
	d, err := load[asked](ctx, v.store, inAsked, fmt.Sprint(b.Command))
	switch {
	case err == nil:
		question = d.V
	case !isNotFound(err):
		return err
	}
	return v.changeBy(ctx, r, b.Target, []int64{r.ID}, func(m *machine) ([]store.Change, error) {
		m.LastSeen = r.Received
		question := question
		if d != nil && d.Time.Before(m.Began) {
			question = asked{} // of a machine that had the name before
		}
		replace := m.Files.Baseline == "" || question.Kind == remote.CommandBaseline && question.Machine == m.Name
		var changes []store.Change
		if d != nil {
			changes = append(changes, remove(inAsked, d.Key))
		}
		var more []store.Change
		if replace {
			var at time.Time
			if d != nil {
				at = d.Time
			}
			more, err = v.adoptBaseline(ctx, m, captured, question.words(), at)
			v.lossTold(m, b.Command)
		} else {
			more, err = v.compareCapture(ctx, m, captured, b.Command)
		}
		return append(changes, more...), err
	})
}

// usable says why a capture cannot be taken over: its digests fit whatever an
// agent wrote, so each record is read once before anything relies on it.
func usable(captured *baseline.Baseline) error {
	if _, err := captured.Header.ParseRules(); err != nil {
		return err
	}
	return captured.Verify()
}

// manifestLife is how long a manifest may be under way.
const manifestLife = time.Hour

// awaitManifest puts a record whose manifest is still under way aside: it is
// stored again as a document and taken up when bodies arrive.
func (v *Verifier) awaitManifest(ctx context.Context, r store.Record) error {
	return v.apply(ctx, []int64{r.ID}, put(inManifests, fmt.Sprint(r.ID), r.Stream.Agent, v.now(), waitingManifest{r}))
}

// waitingManifest is a baseline record whose manifest is under way.
type waitingManifest struct {
	Record store.Record `json:"record"`
}

// takeManifests takes up the baseline records whose manifest has arrived.
func (v *Verifier) takeManifests(ctx context.Context) error {
	docs, err := list[waitingManifest](ctx, v.store, store.Query{Collection: inManifests})
	if err != nil {
		return err
	}
	for _, d := range docs {
		missing, err := v.needed(ctx, []remote.Record{d.V.Record.Record})
		if err != nil {
			return err
		}
		if len(missing) > 0 && v.now().Sub(d.Time) < manifestLife {
			continue
		}
		if len(missing) == 0 {
			if err := v.takeOrGiveUp(ctx, []store.Record{d.V.Record}, v.takeOrRefuse); err != nil {
				return err
			}
		}
		if err := v.store.Apply(ctx, nil, remove(inManifests, d.Key)); err != nil {
			return err
		}
	}
	return nil
}

// adoptBaseline makes a capture the machine's baseline, signed by us. It was asked for at
// asked, zero where nobody did: what differed since may not be in it.
func (v *Verifier) adoptBaseline(ctx context.Context, m *machine, captured *baseline.Baseline, why string, asked time.Time) ([]store.Change, error) {
	version := uint64(1)
	if old, err := v.filesOf(ctx, m); err == nil && old.base != nil {
		version = old.base.file.Header.Version + 1
	}
	captured.Header.Accepted = nil // decisions are made here, not where files are read
	var out bytes.Buffer
	edition := &baseline.Edition{Tool: tool, Created: v.now(), Lineage: baseline.LineageOf(captured.Header.Machine, m.Name), Version: version, Name: m.Name}
	if _, err := baseline.Reissue(captured, edition, &out, v.signer.key); err != nil {
		return nil, fmt.Errorf("sign baseline: %w", err)
	}
	if asked.IsZero() || !m.Rotated.After(asked) {
		m.Rotated, m.LogMoved, m.Unjudged, m.RotationCommand, m.RotatedAgain = noTime, false, false, 0, false
	}
	gaps, accepted, err := v.takeGaps(ctx, m, captured.Header.Gaps)
	if err != nil {
		return nil, err
	}
	m.Files.Origin, m.Files.Unmeasured = why, int(captured.Header.Unread)+len(captured.Header.Gaps)-accepted
	if err := v.keepBaseline(ctx, m, out.Bytes(), int64(captured.Header.Objects)); err != nil {
		return nil, err
	}
	changes, later, err := v.closeReviews(ctx, m, asked)
	if err != nil {
		return nil, err
	}
	if later {
		m.Unjudged = true
		if m.Rotated.IsZero() {
			m.Rotated = v.now() // the schedule asks for the rescan
		}
	}
	text := fmt.Sprintf("a baseline of %s was taken: version %d, %s", m.Name, version, plural(int(captured.Header.Objects), "object", "objects"))
	if n := captured.Header.Unread + uint64(len(captured.Header.Gaps)); n > 0 {
		text += fmt.Sprintf(", %d of which could not be read whole", n)
	}
	return append(append(changes, gaps...), v.moment(remote.Moment{Machine: m.Name, Kind: "file", Severity: remote.SeverityNotice, Text: text})...), nil
}

// keepBaseline stores a baseline that we signed; the machine names it by its
// digest.
func (v *Verifier) keepBaseline(ctx context.Context, m *machine, data []byte, objects int64) error {
	digest := remote.DigestOf(data)
	if err := v.store.PutBodies(ctx, map[remote.Digest][]byte{digest: data}); err != nil {
		return err
	}
	m.Files.Baseline, m.Files.BaselineAt, m.Files.Objects = digest.String(), v.now(), objects
	return nil
}

// closeReviews ends the open file items of a machine, and says whether one is of what was
// done after asked.
func (v *Verifier) closeReviews(ctx context.Context, m *machine, asked time.Time) (changes []store.Change, later bool, err error) {
	docs, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, Machine: m.Name, State: reviewOpen})
	if err != nil {
		return nil, false, err
	}
	for _, d := range docs {
		if d.V.Kind == reviewFile {
			later = later || !asked.IsZero() && d.V.Last.After(asked)
			d.V.State, d.V.DecidedAt, d.V.Reason = reviewReplaced, v.now(), "a new baseline was taken"
			changes = append(changes, d.change())
		}
	}
	m.Files.Violations = 0
	return changes, later, nil
}

// compareCapture holds a capture, the answer to a command or 0, against the machine's
// baseline.
func (v *Verifier) compareCapture(ctx context.Context, m *machine, captured *baseline.Baseline, command uint64) ([]store.Change, error) {
	files, err := v.filesOf(ctx, m)
	if err != nil {
		return nil, err
	}
	report, err := baseline.DiffUnder(files.rules, files.base.file, captured)
	if err != nil {
		return nil, &badRecordError{fmt.Errorf("compare the capture of %s: %w", m.Name, err)}
	}
	v.explain(m.Name, report.Changes...)
	t := &taking{v: v, ctx: ctx, m: m, files: files, events: make(map[string]*remote.FileEvent), reviews: make(map[string]*doc[reviewEntry])}
	if err := t.rescan(report); err != nil {
		return nil, err
	}
	gaps, accepted, err := v.takeGaps(ctx, m, gapsOf(report))
	if err != nil {
		return nil, err
	}
	m.Files.Unmeasured = report.Count(baseline.Unmeasured) - accepted
	v.lossTold(m, command)
	changes := append(t.result(), gaps...)
	if command == 0 || command != m.RotationCommand {
		return changes, nil // it may have looked before what is suspected
	}
	v.rotationTold(m)
	return changes, nil
}

// rescan brings every review item up to date with a whole comparison: what
// differs is open, what no longer does is restored.
func (t *taking) rescan(report *baseline.Report) error {
	f := &remote.FileEvent{Op: "rescan", Actor: "unknown: found by a rescan"}
	seen := make(map[string]bool)
	failed := 0
	for _, c := range report.Changes {
		subject := c.Path
		if c.Old != nil {
			subject = c.Old.Path()
		}
		seen[reviewID(t.m.tag(), subject)] = true
		if c.Counts() {
			failed++
		}
		if err := t.review(subject, f, c); err != nil {
			return err
		}
	}
	open, err := list[reviewEntry](t.ctx, t.v.store, store.Query{Collection: inReviews, Machine: t.m.Name, State: reviewOpen})
	if err != nil {
		return err
	}
	for _, d := range open {
		if d.V.Kind == reviewFile && !seen[d.Key] {
			if err := t.review(string(d.V.Path), f, nil); err != nil {
				return err
			}
		}
	}
	t.note("file", remote.SeverityNotice, "", "a rescan of %s compared %s: %s, %d not compared", t.m.Name,
		plural(int(report.Objects), "object", "objects"), plural(failed, "differs", "differ"), report.Count(baseline.Unmeasured))
	return nil
}

// acceptFile takes the object behind a review item into the baseline.
func (v *Verifier) acceptFile(ctx context.Context, m *machine, r *reviewEntry, author, reason string) ([]store.Change, error) {
	files, err := v.filesOf(ctx, m)
	if err != nil {
		return nil, err
	}
	if files.base == nil {
		return nil, apiError(409, remote.CodeConflict, m.Name+" has no baseline", "")
	}
	old, err := files.at(string(r.Path), r.Object)
	if err != nil {
		return nil, err
	}
	change := &baseline.Change{Path: string(r.Path), Kind: baseline.Changed, Old: old, New: r.found(),
		Partial: r.Object != nil && r.Object.Unread != ""}
	switch {
	case change.Old == nil:
		change.Kind = baseline.Added
	case change.New == nil:
		change.Kind = baseline.Removed
	}
	var out bytes.Buffer
	header, err := baseline.Accept(files.base.file, []*baseline.Change{change}, &baseline.Decision{
		Time: v.now(), Author: author, Reason: reason, Selection: "the path " + filewatch.EscapePath(string(r.Path)), Tool: tool,
	}, &out, v.signer.key)
	if errors.Is(err, baseline.ErrPartial) {
		return nil, apiError(409, remote.CodeConflict, err.Error(), "a scan that reads it whole makes it acceptable")
	}
	if err != nil {
		return nil, fmt.Errorf("accept %s: %w", r.ID, err)
	}
	if err := v.keepBaseline(ctx, m, out.Bytes(), int64(header.Objects)); err != nil {
		return nil, err
	}
	m.Files.Violations = max(0, m.Files.Violations-1)
	return nil, nil
}
