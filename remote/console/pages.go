package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/remote"
)

const (
	shownMoments = 40
	shownEvents  = 200
)

// fleet is the first page.
func (c *console) fleet(r *http.Request, _ *Session) (*view, error) {
	machines, err := c.Machines(r.Context())
	if err != nil {
		return nil, err
	}
	moments, err := c.Timeline(r.Context(), "", shownMoments)
	if err != nil {
		return nil, err
	}
	retired, err := c.Retired(r.Context())
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(machines, func(a, b remote.Machine) int {
		return cmp.Compare(slices.Index(states, a.State), slices.Index(states, b.State))
	})
	counts := make(map[remote.State]int)
	for _, m := range machines {
		counts[m.State]++
	}
	return &view{Template: "fleet", Title: "Fleet", Data: map[string]any{
		"Machines": machines, "Timeline": moments, "Counts": counts, "States": states, "Retired": len(retired),
	}}, nil
}

// retired lists the machines that were taken out of service.
func (c *console) retired(r *http.Request, _ *Session) (*view, error) {
	machines, err := c.Retired(r.Context())
	return &view{Template: "retired", Title: "Retired machines", Data: machines}, err
}

// states in the order they matter.
var states = []remote.State{remote.StateUntrusted, remote.StateUnknown, remote.StateStale, remote.StateRebooting, remote.StateTrusted}

// machine is the page of one machine.
func (c *console) machine(r *http.Request, _ *Session) (*view, error) {
	m, err := c.Machine(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	data := map[string]any{"M": m}
	if m.Appraisal != nil {
		data["Boot"] = decodeBoot(m.Appraisal)
	}
	for i := range m.Scans {
		if m.Scans[i].ID == m.Scan.ID {
			data["Scan"] = decodeScan(&m.Scans[i])
		}
	}
	return &view{Template: "machine", Title: m.Name, Machine: m.Name, Data: data}, nil
}

// scanView is a scan with its report decoded.
type scanView struct {
	*remote.ScanEntry
	R *measure.Report // nil until it is judged
}

func decodeScan(s *remote.ScanEntry) scanView {
	v := scanView{ScanEntry: s}
	var report measure.Report
	if len(s.Report) > 0 && json.Unmarshal(s.Report, &report) == nil {
		v.R = &report
	}
	return v
}

// bootView is an appraisal with its result decoded.
type bootView struct {
	*remote.Appraisal
	R *attest.Result // nil when nothing could be appraised
}

func decodeBoot(a *remote.Appraisal) bootView {
	v := bootView{Appraisal: a}
	var result attest.Result
	if len(a.Result) > 0 && json.Unmarshal(a.Result, &result) == nil {
		v.R = &result
	}
	return v
}

func (c *console) scan(r *http.Request, _ *Session) (*view, error) {
	s, err := c.Scan(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return &view{Template: "scan", Title: "Scan of " + s.Machine, Machine: s.Machine, Data: decodeScan(s)}, nil
}

func (c *console) boot(r *http.Request, _ *Session) (*view, error) {
	a, err := c.Appraisal(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return &view{Template: "boot", Title: "Boot of " + a.Machine, Machine: a.Machine, Data: decodeBoot(a)}, nil
}

func (c *console) events(r *http.Request, _ *Session) (*view, error) {
	q := remote.EventQuery{Machine: r.FormValue("host"), Level: r.FormValue("level"), Before: r.FormValue("before"), Limit: shownEvents}
	events, err := c.Events(r.Context(), q)
	if err != nil {
		return nil, err
	}
	older := ""
	if len(events) == shownEvents {
		next := q
		next.Before = events[len(events)-1].ID
		older = "/events?" + next.Values().Encode()
	}
	machines, err := c.Machines(r.Context())
	if err != nil {
		return nil, err
	}
	return &view{Template: "events", Title: "File events", Machine: q.Machine, Data: map[string]any{
		"Events": events, "Query": q, "Older": older, "Machines": machines,
		"Levels": []string{"protect", "verify", "record"},
	}}, nil
}

func (c *console) review(r *http.Request, _ *Session) (*view, error) {
	open, err := c.Reviews(r.Context(), "open")
	if err != nil {
		return nil, err
	}
	recent, err := c.Reviews(r.Context(), "")
	if err != nil {
		return nil, err
	}
	var closed []remote.Review
	for _, item := range recent {
		if item.State != "open" && len(closed) < shownEvents {
			closed = append(closed, item)
		}
	}
	return &view{Template: "review", Title: "Review", Data: map[string]any{"Open": open, "Closed": closed}}, nil
}

// start begins what a machine's page offers.
func (c *console) start(_ http.ResponseWriter, r *http.Request, s *Session) (string, error) {
	name := r.PathValue("name")
	next := "/machines/" + url.PathEscape(name)
	switch r.PathValue("action") {
	case "scan":
		scan, err := c.StartScan(r.Context(), name, s.User)
		if err != nil {
			return "", err
		}
		return "/scans/" + url.PathEscape(scan.ID), nil
	case "attest":
		return next, c.StartAttestation(r.Context(), name, s.User)
	case "baseline":
		return next, c.StartBaseline(r.Context(), name, s.User)
	case "retire":
		_, err := c.Retire(r.Context(), name, s.User, r.PostFormValue("reason"))
		return next, err
	case "readmit":
		return next, c.Readmit(r.Context(), name, s.User, r.PostFormValue("reason"))
	}
	return "", errNoPage
}

// decide accepts or rejects a review item.
func (c *console) decide(_ http.ResponseWriter, r *http.Request, s *Session) (string, error) {
	d := remote.Decision{Reason: r.PostFormValue("reason")}
	switch r.PostFormValue("decision") {
	case "accept":
		d.Accept = true
	case "reject":
	default:
		return "", &remote.Error{Status: http.StatusBadRequest, Code: remote.CodeBadRequest, Message: fmt.Sprintf("decision %q", r.PostFormValue("decision"))}
	}
	_, err := c.Decide(r.Context(), r.PathValue("id"), s.User, d)
	return localPath(r.PostFormValue("next")), err
}
