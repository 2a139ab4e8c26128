package verifier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// A machine is retired by a person, with a reason. Its record and all that is its own
// (scans, appraisals, file events, review items, its timeline) is then kept under an ID
// that no machine can have as its name, where nothing changes it any more. What is left
// under the name says that it stands for nobody, until a TPM is enrolled under it or a
// person takes it back into service: then it stands for a machine of which nothing is
// known. The keys of the retired one are not under the name: a verifier of before, which
// knows of no retirement, finds a machine that never enrolled.

// reviewRetired is the state of an item whose machine was retired before anybody decided.
const reviewRetired = "retired"

// errRetired is returned for a name whose machine was retired.
var errRetired = errors.New("the machine was retired")

// retiredError is errRetired as people are told.
func retiredError(name string) error {
	return fmt.Errorf("%w: %w", errRetired, apiError(http.StatusConflict, remote.CodeConflict,
		"machine "+name+" was retired", "plumbline hosts readmit takes the name back into service"))
}

// identityMark parts the name of a retired machine from the digits that tell it from
// others of that name. No name has it, see remote.CheckName.
const identityMark = "~"

// identityOf is the ID of a machine that is retired now.
func identityOf(name string) string { return name + identityMark + newID()[:12] }

// ownCollections are what goes with a machine when it is retired.
var ownCollections = []string{inScans, inAppraisals, inEvents, inReviews, inMoments}

// Retire takes a machine out of service.
func (v *Verifier) Retire(ctx context.Context, name, who, reason string) (*remote.Retirement, error) {
	if reason == "" {
		return nil, errNoReason
	}
	if _, err := v.known(ctx, name); err != nil {
		return nil, err
	}
	v.turnover.Lock()
	defer v.turnover.Unlock()
	var gone *remote.Retirement
	err := v.changeName(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		if m.Retired != nil {
			return nil, apiError(http.StatusConflict, remote.CodeConflict, "machine "+name+" is retired already", "")
		}
		gone = &remote.Retirement{ID: identityOf(name), Name: name, At: v.now(), By: who, Reason: reason}
		return v.retire(ctx, m, gone, "")
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

var errNoReason = badRequest(errors.New("a decision needs a reason"))

// Readmit takes the name of a retired machine back into service. It is the way back for
// a machine that has no TPM of its own; one that has may as well enrol.
func (v *Verifier) Readmit(ctx context.Context, name, who, reason string) error {
	if reason == "" {
		return errNoReason
	}
	if _, err := v.known(ctx, name); err != nil {
		return err
	}
	return v.changeName(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		if m.Retired == nil {
			return nil, apiError(http.StatusConflict, remote.CodeConflict, "machine "+name+" is in service", "")
		}
		m.serve(v.now())
		return v.moment(remote.Moment{Machine: name, Kind: "retirement", Severity: remote.SeverityNotice,
			Text: fmt.Sprintf("%s took the name %s back into service, for a machine of which nothing is known yet: %s", who, name, reason)}), nil
	})
}

// serve says that the name stands for a machine again.
func (m *machine) serve(now time.Time) {
	m.Retired, m.Began, m.Since, m.Dropped = nil, now, now, false
}

// retire makes the changes that put a machine's record and history aside, and leaves in
// m a name that stands for nobody. deciding is the review item, if any, that is being
// decided: who decides writes it.
func (v *Verifier) retire(ctx context.Context, m *machine, gone *remote.Retirement, deciding string) ([]store.Change, error) {
	old := *m
	old.Name, old.Retired = gone.ID, gone
	old.Boot.Next, old.Scan.Next = noTime, noTime
	changes := []store.Change{create(inRetired, gone.ID, gone.Name, gone.At, old)}
	if old.enrolled() {
		changes = append(changes, put(inRefusedEKs, keyOf(old.EKPublic), gone.Name, gone.At, gone.ID))
	}
	asked, err := v.withdrawEnrolments(ctx, &old)
	if err != nil {
		return nil, err
	}
	scans, err := v.endScans(ctx, gone)
	if err != nil {
		return nil, err
	}
	commands, err := v.withdrawCommands(ctx, &old)
	if err != nil {
		return nil, err
	}
	closed, kept, err := v.endReviews(ctx, &old, deciding)
	if err != nil {
		return nil, err
	}
	changes = append(changes, asked...)
	changes = append(append(append(changes, scans...), commands...), closed...)
	for _, collection := range ownCollections {
		changes = append(changes, store.Change{Document: store.Document{Collection: collection, Machine: gone.ID}, From: gone.Name})
	}
	changes = append(changes, kept...)
	*m = v.newMachine(gone.Name)
	m.Retired, m.Began, m.Prior = gone, gone.At, gone.ID
	v.refresh(m)
	return append(changes, v.moment(remote.Moment{Machine: gone.ID, Kind: "retirement", Severity: remote.SeverityNotice, Time: gone.At,
		Text: fmt.Sprintf("%s retired %s: %s", gone.By, gone.Name, gone.Reason)})...), nil
}

// endScans ends the scans of a machine that are under way.
func (v *Verifier) endScans(ctx context.Context, gone *remote.Retirement) (changes []store.Change, err error) {
	open, err := v.openScans(ctx, remote.ScanQueued, remote.ScanFired, remote.ScanWaiting)
	if err != nil {
		return nil, err
	}
	for _, s := range open {
		if s.V.Machine == gone.Name {
			s.V.State, s.V.Error, s.Machine = remote.ScanFailed, errRetired.Error(), gone.ID
			changes = append(changes, s.change())
		}
	}
	return changes, nil
}

// withdrawCommands takes back what the agent of a machine was asked for, and what others
// were asked for about it. What its agent was asked for about others goes to the TPM that
// replaces it, if one does.
func (v *Verifier) withdrawCommands(ctx context.Context, old *machine) (changes []store.Change, err error) {
	for _, agent := range []string{old.Retired.Name, old.MeasuredBy} {
		if agent == "" {
			continue
		}
		docs, err := list[remote.Command](ctx, v.store, store.Query{Collection: inCommands, Machine: agent})
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			if d.V.Target == old.Retired.Name || agent == old.Retired.Name && old.Retired.ReplacedBy == "" {
				changes = append(changes, remove(inCommands, d.Key))
			}
		}
	}
	return changes, nil
}

// withdrawEnrolments ends what a machine's TPM has asked for and was not given yet: an
// approval of before says nothing about a TPM that was retired.
func (v *Verifier) withdrawEnrolments(ctx context.Context, old *machine) (changes []store.Change, err error) {
	docs, err := list[enrolment](ctx, v.store, store.Query{Collection: inEnrolments})
	if err != nil {
		return nil, err
	}
	for _, e := range docs {
		if !standsFor(old, &e.V.Request) {
			continue
		}
		changes = append(changes, remove(inEnrolments, e.Key))
		r, err := load[reviewEntry](ctx, v.store, inReviews, e.Key)
		switch {
		case isNotFound(err):
		case err != nil:
			return nil, err
		case r.V.State == reviewOpen && r.V.Machine != old.Retired.Name: // endReviews has the others
			r.V.retire(old.Retired)
			changes = append(changes, r.change())
		}
	}
	return changes, nil
}

// endReviews closes a machine's open items. Those of other TPMs that ask for its name
// are kept: they are to be written back to the name once all is moved away from it.
func (v *Verifier) endReviews(ctx context.Context, old *machine, deciding string) (closed, kept []store.Change, err error) {
	docs, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, Machine: old.Retired.Name, State: reviewOpen})
	if err != nil {
		return nil, nil, err
	}
	for _, d := range docs {
		if d.Key == deciding {
			continue
		}
		if d.V.Kind == reviewEnrolment || d.V.Kind == reviewReplacement {
			e, err := load[enrolment](ctx, v.store, inEnrolments, d.Key)
			if err != nil && !isNotFound(err) {
				return nil, nil, err
			}
			if err == nil && !standsFor(old, &e.V.Request) {
				kept = append(kept, put(inReviews, d.Key, old.Retired.Name, d.Time, d.V))
				continue
			}
		}
		d.V.retire(old.Retired)
		d.Machine = old.Retired.ID
		closed = append(closed, d.change())
	}
	return closed, kept, nil
}

// retire closes an item with its machine.
func (r *reviewEntry) retire(gone *remote.Retirement) {
	r.State, r.DecidedBy, r.DecidedAt, r.Reason = reviewRetired, gone.By, gone.At, "the machine was retired: "+gone.Reason
}

// fingerprintOf is the digest that people know an EK by.
func fingerprintOf(ek []byte) string {
	id := attest.Identity{EK: ek}
	return id.Fingerprint().String()
}

// Retired lists the machines that were retired, newest first.
func (v *Verifier) Retired(ctx context.Context) ([]remote.Machine, error) {
	docs, err := list[machine](ctx, v.store, store.Query{Collection: inRetired})
	if err != nil {
		return nil, err
	}
	out := make([]remote.Machine, 0, len(docs))
	for _, d := range docs {
		out = append(out, d.V.Machine)
	}
	return out, nil
}

// everyMachine is every machine, in service or not.
func (v *Verifier) everyMachine(ctx context.Context) (all []*doc[machine], err error) {
	for _, collection := range []string{inMachines, inRetired} {
		docs, err := list[machine](ctx, v.store, store.Query{Collection: collection})
		if err != nil {
			return nil, err
		}
		all = append(all, docs...)
	}
	return all, nil
}

// former are the machines that had a name and were retired, newest first.
func (v *Verifier) former(ctx context.Context, name string) ([]*doc[machine], error) {
	return list[machine](ctx, v.store, store.Query{Collection: inRetired, Machine: name})
}

// record is what is stored under a name, or under the ID of a retired machine: of a name
// that stands for nobody, the machine that had it last.
func (v *Verifier) record(ctx context.Context, name string) (*doc[machine], error) {
	id := name
	if !strings.Contains(name, identityMark) {
		d, err := v.known(ctx, name)
		if err != nil || d.V.Retired == nil {
			return d, err
		}
		id = d.V.Retired.ID
	}
	d, err := load[machine](ctx, v.store, inRetired, id)
	if isNotFound(err) {
		return nil, unknownMachine(name)
	}
	return d, err
}

// certificateRefused is the answer to a client certificate that is not that of the
// machine it names: of one that was retired it says so.
func (v *Verifier) certificateRefused(ctx context.Context, name, serial string) error {
	docs, err := v.former(ctx, name)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if d.V.Enrolment.Serial == serial {
			v.metrics.refused.WithLabelValues("retired").Inc()
			return apiError(http.StatusForbidden, remote.CodeRetired, fmt.Sprintf("this machine, %s, was retired at %s", name, clock(d.V.Retired.At)),
				"to enrol it again remove the certificate from the agent's state directory; an administrator is asked then")
		}
	}
	return apiError(http.StatusUnauthorized, remote.CodeUnauth, "the client certificate was withdrawn or replaced", "enrol again")
}

// refusedEK is the retired machine that the TPM in a request was: nil if there is none,
// or if the TPM is that of the machine it asks for.
func (v *Verifier) refusedEK(ctx context.Context, m *machine, req *remote.EnrolRequest) (*remote.Retirement, error) {
	if standsFor(m, req) {
		return nil, nil
	}
	id, err := load[string](ctx, v.store, inRefusedEKs, keyOf(req.EKPublic))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := load[machine](ctx, v.store, inRetired, id.V)
	if err != nil {
		return nil, err
	}
	return d.V.Retired, nil
}

// wasRetired says so of a TPM.
func wasRetired(gone *remote.Retirement) string {
	return fmt.Sprintf("this TPM was that of %s, which was retired at %s", gone.Name, clock(gone.At))
}

// changeBy is changeMachine on the word of a record. What was received when the name
// stood for another machine does not change this one.
func (v *Verifier) changeBy(ctx context.Context, r store.Record, name string, ids []int64, decide func(*machine) ([]store.Change, error)) error {
	return v.changeMachine(ctx, name, ids, func(m *machine) ([]store.Change, error) {
		if r.Received.Before(m.Began) {
			return nil, errRetired
		}
		return decide(m)
	})
}

// inService refuses a record that was received when the name of its agent or of its
// target stood for another machine or for nobody.
func inService(r store.Record, machines ...*machine) error {
	for _, m := range machines {
		if m.Retired != nil || r.Received.Before(m.Began) {
			return fmt.Errorf("%s: %w", m.Name, errRetired)
		}
	}
	return nil
}

// noteDropped tells once that somebody still reports about a retired machine. It alerts
// nobody.
func (v *Verifier) noteDropped(ctx context.Context, agent string, m *machine) error {
	if m.Retired == nil || m.Dropped {
		return nil
	}
	return v.changeName(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
		if m.Retired == nil || m.Dropped {
			return nil, errNothing
		}
		m.Dropped = true
		return v.moment(remote.Moment{Machine: m.Retired.ID, Kind: "retirement", Severity: remote.SeverityInfo,
			Text: fmt.Sprintf("%s still reports about %s, which was retired: what it says is dropped", agent, m.Name)}), nil
	})
}

// dropRecords marks records about a retired machine, or of its agent, as processed.
func (v *Verifier) dropRecords(ctx context.Context, run []store.Record, why error) error {
	ids := make([]int64, len(run))
	for i, r := range run {
		ids[i] = r.ID
		v.metrics.refused.WithLabelValues("retired").Inc()
	}
	v.log.Info("record dropped", "agent", run[0].Stream.Agent, "seq", run[0].Record.Seq, "count", len(run), "kind", run[0].Record.Kind, "error", why)
	return v.apply(ctx, ids)
}
