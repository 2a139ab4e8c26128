package verifier

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// How much a machine's page shows of each kind.
const (
	recentScans   = 20
	recentEvents  = 100
	recentMoments = 100
	maxEvents     = 1000
	maxReviews    = 1000
)

// person turns a function of someone who may ask into a handler.
func (v *Verifier) person(handle func(r *http.Request, who string) (any, error)) http.HandlerFunc {
	return v.api(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		who, err := v.personOf(r)
		if err != nil {
			return nil, err
		}
		return handle(r, who)
	})
}

// Machines lists the fleet by name: the machines in service.
func (v *Verifier) Machines(ctx context.Context) ([]remote.Machine, error) {
	docs, err := list[machine](ctx, v.store, store.Query{Collection: inMachines})
	if err != nil {
		return nil, err
	}
	out := make([]remote.Machine, 0, len(docs))
	for _, d := range docs {
		if d.V.Retired != nil {
			continue
		}
		v.refresh(&d.V)
		out = append(out, d.V.Machine)
	}
	slices.SortFunc(out, func(a, b remote.Machine) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Machine returns one machine with its recent history, by its name or, if it was
// retired, by its ID.
func (v *Verifier) Machine(ctx context.Context, name string) (*remote.MachineDetail, error) {
	d, err := v.record(ctx, name)
	if err != nil {
		return nil, err
	}
	name = d.V.Name
	out := &remote.MachineDetail{}
	if d.V.Retired == nil {
		v.refresh(&d.V)
		former, err := v.former(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, f := range former {
			out.Former = append(out.Former, *f.V.Retired)
		}
	}
	out.Machine = d.V.Machine
	if out.Boot.ID != "" {
		if out.Appraisal, err = v.Appraisal(ctx, out.Boot.ID); err != nil {
			return nil, err
		}
	}
	scans, err := list[scanEntry](ctx, v.store, store.Query{Collection: inScans, Machine: name, Limit: recentScans})
	if err != nil {
		return nil, err
	}
	out.Scans = make([]remote.ScanEntry, 0, len(scans))
	for _, s := range scans {
		s.V.Machine = cmp.Or(s.Document.Machine, s.V.Machine)
		out.Scans = append(out.Scans, s.V.ScanEntry)
	}
	if out.Events, err = v.Events(ctx, remote.EventQuery{Machine: name, Limit: recentEvents}); err != nil {
		return nil, err
	}
	if out.Review, err = v.reviews(ctx, name, reviewOpen); err != nil {
		return nil, err
	}
	out.Timeline, err = v.Timeline(ctx, name, recentMoments)
	return out, err
}

// Appraisal returns one boot appraisal.
func (v *Verifier) Appraisal(ctx context.Context, id string) (*remote.Appraisal, error) {
	d, err := load[remote.Appraisal](ctx, v.store, inAppraisals, id)
	if isNotFound(err) {
		return nil, notFound("appraisal " + id)
	}
	if err != nil {
		return nil, err
	}
	d.V.Machine = cmp.Or(d.Document.Machine, d.V.Machine)
	return &d.V, nil
}

// Timeline lists what happened, newest first; machine "" for the whole fleet.
func (v *Verifier) Timeline(ctx context.Context, machine string, limit int) ([]remote.Moment, error) {
	docs, err := list[remote.Moment](ctx, v.store, store.Query{Collection: inMoments, Machine: machine, Limit: limit})
	for _, d := range docs {
		d.V.Machine = cmp.Or(d.Document.Machine, d.V.Machine) // which may have been retired since
	}
	return values(docs), err
}

// Events lists file events, newest first. A machine or a level that there is not is an
// error: an empty list would say that nothing happened.
func (v *Verifier) Events(ctx context.Context, q remote.EventQuery) ([]remote.FileEvent, error) {
	if err := v.checkEventQuery(ctx, &q); err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, maxEvents)
	out := make([]remote.FileEvent, 0, limit)
	before := q.Before
	for len(out) < limit {
		docs, err := list[remote.FileEvent](ctx, v.store, store.Query{Collection: inEvents, Machine: q.Machine, Before: before, Limit: limit})
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			if before = d.Key; (q.Level == "" || d.V.Level == q.Level) && len(out) < limit {
				d.V.Machine = cmp.Or(d.Document.Machine, d.V.Machine)
				out = append(out, d.V)
			}
		}
		if len(docs) < limit {
			break
		}
	}
	return out, nil
}

func (v *Verifier) checkEventQuery(ctx context.Context, q *remote.EventQuery) error {
	if q.Level != "" {
		if err := new(filewatch.Level).UnmarshalText([]byte(q.Level)); err != nil {
			return badRequest(err)
		}
	}
	if q.Machine == "" {
		return nil
	}
	d, err := v.record(ctx, q.Machine)
	if err != nil {
		return err
	}
	q.Machine = d.V.Name
	return nil
}

// Reviews lists what waits for a person, newest first.
func (v *Verifier) Reviews(ctx context.Context, state string) ([]remote.Review, error) {
	return v.reviews(ctx, "", state)
}

// reviews are the newest items in a state, of one machine or of all.
func (v *Verifier) reviews(ctx context.Context, machine, state string) ([]remote.Review, error) {
	docs, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, Machine: machine, State: state, Limit: maxReviews})
	if err != nil {
		return nil, err
	}
	out := make([]remote.Review, 0, len(docs))
	for _, d := range docs {
		d.V.Machine = cmp.Or(d.Document.Machine, d.V.Machine)
		out = append(out, d.V.Review)
	}
	return out, nil
}

// Decide carries out a person's decision.
func (v *Verifier) Decide(ctx context.Context, id, who string, d remote.Decision) (*remote.Review, error) {
	return v.decide(ctx, id, who, d)
}

// Scan returns one scan.
func (v *Verifier) Scan(ctx context.Context, id string) (*remote.ScanEntry, error) {
	d, err := load[scanEntry](ctx, v.store, inScans, id)
	if isNotFound(err) {
		return nil, notFound("scan " + id)
	}
	if err != nil {
		return nil, err
	}
	d.V.Machine = cmp.Or(d.Document.Machine, d.V.Machine)
	return &d.V.ScanEntry, nil
}

// StartScan fires a scan for who.
func (v *Verifier) StartScan(ctx context.Context, name, who string) (*remote.ScanEntry, error) {
	if _, err := v.known(ctx, name); err != nil {
		return nil, err
	}
	s, err := v.startScan(ctx, name, who)
	if errors.Is(err, errNoBMC) {
		return nil, apiError(http.StatusConflict, remote.CodeConflict, err.Error(), "set [host.bmc] for it in the verifier's configuration")
	}
	return s, err
}

// StartAttestation asks a machine to attest.
func (v *Verifier) StartAttestation(ctx context.Context, name, who string) error {
	if _, err := v.known(ctx, name); err != nil {
		return err
	}
	return v.changeMachine(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		if !m.enrolled() {
			return nil, apiError(http.StatusConflict, remote.CodeConflict, "no agent with a TPM has enrolled as "+name, "start plumbline agent there")
		}
		return v.askAttestation(ctx, m, who+" asked")
	})
}

// StartBaseline asks for a new baseline of a machine's files.
func (v *Verifier) StartBaseline(ctx context.Context, name, who string) error {
	if _, err := v.known(ctx, name); err != nil {
		return err
	}
	return v.changeMachine(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		return v.askFiles(ctx, m, remote.CommandBaseline, who, who+" asked")
	})
}

// known refuses a name that nobody has heard of, so that asking makes none.
func (v *Verifier) known(ctx context.Context, name string) (*doc[machine], error) {
	d, err := load[machine](ctx, v.store, inMachines, name)
	if !isNotFound(err) {
		return d, err
	}
	if gone, err := load[machine](ctx, v.store, inRetired, name); err == nil {
		return nil, retiredError(gone.V.Retired.Name)
	} else if !isNotFound(err) {
		return nil, err
	}
	return nil, unknownMachine(name)
}

func unknownMachine(name string) error {
	return apiError(http.StatusNotFound, remote.CodeNotFound, "machine "+name+" is not known", "see plumbline hosts")
}

func (v *Verifier) getMachines(r *http.Request, _ string) (any, error) {
	machines, err := v.Machines(r.Context())
	return map[string]any{"hosts": machines}, err
}

func (v *Verifier) getMachine(r *http.Request, _ string) (any, error) {
	return v.Machine(r.Context(), r.PathValue("name"))
}

func (v *Verifier) getRetired(r *http.Request, _ string) (any, error) {
	machines, err := v.Retired(r.Context())
	return map[string]any{"retired": machines}, err
}

func (v *Verifier) postRetire(r *http.Request, who string) (any, error) {
	var j remote.Justified
	if err := readJSON(nil, r, maxLoginBytes, &j); err != nil {
		return nil, err
	}
	return v.Retire(r.Context(), r.PathValue("name"), who, j.Reason)
}

func (v *Verifier) postReadmit(r *http.Request, who string) (any, error) {
	var j remote.Justified
	if err := readJSON(nil, r, maxLoginBytes, &j); err != nil {
		return nil, err
	}
	return nil, v.Readmit(r.Context(), r.PathValue("name"), who, j.Reason)
}

func (v *Verifier) postScan(r *http.Request, who string) (any, error) {
	return v.StartScan(r.Context(), r.PathValue("name"), who)
}

func (v *Verifier) postAttest(r *http.Request, who string) (any, error) {
	return nil, v.StartAttestation(r.Context(), r.PathValue("name"), who)
}

func (v *Verifier) postBaseline(r *http.Request, who string) (any, error) {
	return nil, v.StartBaseline(r.Context(), r.PathValue("name"), who)
}

// getScan is GET /v1/scans/{id}?wait=SECONDS.
func (v *Verifier) getScan(r *http.Request, _ string) (any, error) {
	seconds, err := intParameter(r, "wait", 0, maxWait)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(seconds)*time.Second)
	defer cancel()
	id := r.PathValue("id")
	var s *remote.ScanEntry
	err = v.hub.until(ctx, func(c store.Change) bool { return c.Collection == inScans && c.Key == id }, func() (bool, error) {
		s, err = v.Scan(r.Context(), id)
		return err == nil && s.Done(), err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (v *Verifier) getEvents(r *http.Request, _ string) (any, error) {
	limit, err := intParameter(r, "limit", 0, maxEvents)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	events, err := v.Events(r.Context(), remote.EventQuery{Machine: q.Get("host"), Level: q.Get("level"), Before: q.Get("before"), Limit: limit})
	return map[string]any{"events": events}, err
}

func (v *Verifier) getReviews(r *http.Request, _ string) (any, error) {
	items, err := v.Reviews(r.Context(), r.URL.Query().Get("state"))
	return map[string]any{"review": items}, err
}

func (v *Verifier) postReview(r *http.Request, who string) (any, error) {
	var d remote.Decision
	if err := readJSON(nil, r, maxLoginBytes, &d); err != nil {
		return nil, err
	}
	return v.Decide(r.Context(), r.PathValue("id"), who, d)
}
