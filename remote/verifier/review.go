package verifier

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Kinds and states of review items.
const (
	reviewFile      = "file"
	reviewEnrolment = "enrolment"
	reviewGap       = "gap" // see takeGaps
	// reviewReplacement is a TPM that asks for the name of another, see askOperator.
	reviewReplacement = "replacement"

	reviewOpen     = "open"
	reviewAccepted = "accepted"
	reviewRejected = "rejected"
	reviewRestored = "restored" // the object is again as in the baseline
	reviewReplaced = "replaced" // a new baseline made it pointless
)

// review brings the review item of an object up to date with a judgement.
func (t *taking) review(subject string, f *remote.FileEvent, change *baseline.Change) error {
	d, err := t.reviewOf(subject)
	if err != nil {
		return err
	}
	open := d.V.State == reviewOpen
	counts := change != nil && change.Counts()
	switch {
	case counts && !open:
		d.V = fileReview(t.m, subject, t.v.now())
		t.m.Files.Violations++
		t.note("file", remote.SeverityAlert, f.ID, "%s on %s: %s (%s by %s)", filewatch.PrintablePath(subject), t.m.Name,
			change.Explanation, f.Op, f.Actor)
	case !counts && open && (change == nil || change.Kind != baseline.Unmeasured):
		d.V.State, d.V.DecidedAt, d.V.Reason = reviewRestored, t.v.now(), "it is again as in the baseline"
		if change != nil && change.Explained != "" {
			d.V.Reason = "it is explained by " + change.Explained
		}
		t.m.Files.Violations = max(0, t.m.Files.Violations-1)
		t.note("file", remote.SeverityNotice, f.ID, "%s on %s: %s", filewatch.PrintablePath(subject), t.m.Name, d.V.Reason)
		t.reviews[d.Key] = d
		return nil
	case !counts:
		return nil
	}
	d.V.fill(change)
	d.V.Count++
	d.V.Last = t.v.now()
	d.V.Event = f.ID
	d.Time = t.v.now()
	t.reviews[d.Key] = d
	return nil
}

// reviewEntry is a stored review item: what people see and what accepting it
// needs.
type reviewEntry struct {
	remote.Review
	Path   []byte           `json:"path,omitempty"`   // raw
	Object *baseline.Record `json:"object,omitempty"` // as found; nil when it is gone
	Text   *baseline.Text   `json:"text,omitempty"`   // of Object, whose JSON leaves it out
	Event  string           `json:"event,omitempty"`  // the last one
	Times  int              `json:"times,omitempty"`  // how many of a gap were accepted
}

func (r reviewEntry) stateWord() string { return r.State }

func fileReview(m *machine, subject string, now time.Time) reviewEntry {
	return reviewEntry{Path: []byte(subject), Review: remote.Review{
		ID: reviewID(m.tag(), subject), Kind: reviewFile, Machine: m.Name, Subject: filewatch.PrintablePath(subject),
		First: now, Last: now, State: reviewOpen,
	}}
}

// fill describes the change that an item is about.
func (r *reviewEntry) fill(c *baseline.Change) {
	r.Summary = fmt.Sprintf("%s %s", c.Kind, filewatch.PrintablePath(c.Path))
	r.Detail, r.Level, r.Object = c.Explanation, c.Level.String(), c.New
	r.Changes = encode(c)
	r.Text = nil
	if c.New != nil && c.New.Text.State != baseline.TextNone {
		text := c.New.Text
		r.Text = &text
	}
}

// found is the object as it was found, nil when it is gone.
func (r *reviewEntry) found() *baseline.Record {
	if r.Object == nil || r.Text == nil {
		return r.Object
	}
	object := *r.Object
	object.Text = *r.Text
	return &object
}

func (t *taking) reviewOf(subject string) (*doc[reviewEntry], error) {
	id := reviewID(t.m.tag(), subject)
	if d := t.reviews[id]; d != nil {
		return d, nil
	}
	d, err := loadOrNew[reviewEntry](t.ctx, t.v.store, inReviews, id)
	if err != nil {
		return nil, err
	}
	d.Machine = t.m.Name
	return d, nil
}

// decide carries out a person's decision on a review item.
func (v *Verifier) decide(ctx context.Context, id, author string, decision remote.Decision) (*remote.Review, error) {
	if decision.Reason == "" {
		return nil, errNoReason
	}
	var out remote.Review
	err := again(func() error {
		d, err := load[reviewEntry](ctx, v.store, inReviews, id)
		if isNotFound(err) {
			return apiError(http.StatusNotFound, remote.CodeNotFound, "review item "+id+" is not known", "see plumbline review")
		}
		if err != nil {
			return err
		}
		if takenBack := d.V.Kind == reviewGap && d.V.State == reviewAccepted && !decision.Accept; d.V.State != reviewOpen && !takenBack {
			return apiError(http.StatusConflict, remote.CodeConflict, "the item is already "+d.V.State, "")
		}
		if strings.Contains(d.Machine, identityMark) {
			return retiredError(d.V.Machine)
		}
		d.V.State, d.V.DecidedBy, d.V.DecidedAt, d.V.Reason = reviewRejected, author, v.now(), decision.Reason
		if decision.Accept {
			d.V.State = reviewAccepted
		}
		change := v.changeMachine
		if d.V.Kind == reviewEnrolment || d.V.Kind == reviewReplacement {
			change = v.changeName // the name may stand for nobody
			v.turnover.Lock()
			defer v.turnover.Unlock()
		}
		err = change(ctx, d.V.Machine, nil, func(m *machine) ([]store.Change, error) {
			return v.carryOut(ctx, m, d, author, decision)
		})
		out = d.V.Review
		return err
	})
	return &out, err
}

func (v *Verifier) carryOut(ctx context.Context, m *machine, d *doc[reviewEntry], author string, decision remote.Decision) ([]store.Change, error) {
	var changes []store.Change
	var err error
	switch {
	case d.V.Kind == reviewEnrolment:
		changes, err = v.decideEnrolment(ctx, d.V.ID, author, decision)
	case d.V.Kind == reviewReplacement:
		changes, err = v.decideReplacement(ctx, m, d.V.ID, author, decision)
	case d.V.Kind == reviewGap:
		m.decideGap(d, decision.Accept)
	case decision.Accept:
		changes, err = v.acceptFile(ctx, m, &d.V, author, decision.Reason)
	default:
		// A rejected change stays a violation until the object is restored.
		d.V.State = reviewOpen
		d.V.Rejected = true
	}
	if err != nil {
		return nil, err
	}
	word := "rejected"
	if decision.Accept {
		word = "accepted"
	}
	changes = append(changes, d.change())
	return append(changes, v.moment(remote.Moment{Machine: m.Name, Kind: "review", Severity: remote.SeverityNotice, Ref: d.V.ID,
		Text: fmt.Sprintf("%s %s: %s (%s)", author, word, d.V.Summary, decision.Reason)})...), nil
}
