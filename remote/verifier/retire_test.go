package verifier

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

func (r *running) retired(t *testing.T, name, reason string) *remote.Retirement {
	t.Helper()
	gone, err := r.client.Retire(t.Context(), name, reason)
	if err != nil {
		t.Fatalf("retire %s: %v", name, err)
	}
	return gone
}

// busy is a fleet whose vm1 has a failed scan, and a file that differs.
func busy(t *testing.T) (*running, *softAgent, *watch) {
	t.Helper()
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("fail"))) })
	w := newWatch(t, host, "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "changed"))
	r.violations(t, 1)
	return r, host, w
}

// A retired machine is out of the fleet and its record is as it was, for auditors.
func TestRetiredMachineKeepsItsRecord(t *testing.T) {
	r, _, _ := busy(t)
	before := r.machine(t, "vm1")
	gone := r.retired(t, "vm1", "decommissioned, ticket 12")
	if !strings.HasPrefix(gone.ID, "vm1~") || gone.Name != "vm1" || gone.By != User+" (token)" || gone.Reason != "decommissioned, ticket 12" {
		t.Errorf("%+v", gone)
	}
	machines, err := r.client.Machines(t.Context())
	if err != nil || len(machines) != 1 || machines[0].Name != "host1" {
		t.Errorf("in service: %+v, %v", machines, err)
	}
	if all, err := r.client.Retired(t.Context()); err != nil || len(all) != 1 || all[0].Name != gone.ID || all[0].State != remote.StateUntrusted {
		t.Errorf("retired: %+v, %v", all, err)
	}
	for _, name := range []string{"vm1", gone.ID} {
		m := r.machine(t, name)
		if m.Retired == nil || *m.Retired != *gone || m.State != before.State || len(m.Scans) != 1 || len(m.Events) != len(before.Events) ||
			m.Files.Baseline != before.Files.Baseline || len(m.Review) != 0 {
			t.Errorf("record of %s: %+v", name, m)
		}
		if first := m.Timeline[0]; first.Kind != "retirement" || !strings.Contains(first.Text, "retired vm1: decommissioned, ticket 12") || len(m.Timeline) != len(before.Timeline)+1 {
			t.Errorf("timeline of %s begins with %+v, %d lines after %d", name, first, len(m.Timeline), len(before.Timeline))
		}
	}
	if events, err := r.client.Events(t.Context(), remote.EventQuery{Machine: gone.ID}); err != nil || len(events) != len(before.Events) || events[0].Machine != gone.ID {
		t.Errorf("events: %+v, %v", events, err)
	}
	items, err := r.client.Reviews(t.Context(), "")
	if err != nil || len(items) != 1 || items[0].State != reviewRetired || items[0].Machine != gone.ID || items[0].DecidedBy != gone.By {
		t.Errorf("review: %+v, %v", items, err)
	}
	_, err = r.client.Decide(t.Context(), items[0].ID, remote.Decision{Accept: true, Reason: "late"})
	wantAPIError(t, "deciding about it", err, http.StatusConflict, remote.CodeConflict)
	if s, err := r.client.Scan(t.Context(), before.Scan.ID, 0); err != nil || len(s.Report) == 0 || s.Machine != gone.ID {
		t.Errorf("its scan: %+v, %v", s, err)
	}
}

// Nothing is asked of a retired machine any more, and nobody is alerted about it.
func TestRetiredMachineIsLeftAlone(t *testing.T) {
	r, host, w := busy(t)
	gone := r.retired(t, "vm1", "decommissioned")
	lines := len(r.machine(t, gone.ID).Timeline)
	_, err := r.client.StartScan(t.Context(), "vm1")
	wantAPIError(t, "scan", err, http.StatusConflict, remote.CodeConflict)
	wantAPIError(t, "attest", r.client.StartAttestation(t.Context(), "vm1"), http.StatusConflict, remote.CodeConflict)
	wantAPIError(t, "baseline", r.client.StartBaseline(t.Context(), "vm1"), http.StatusConflict, remote.CodeConflict)
	_, err = r.client.Retire(t.Context(), "vm1", "again")
	wantAPIError(t, "retire again", err, http.StatusConflict, remote.CodeConflict)
	_, err = r.client.Retire(t.Context(), "vm2", "x")
	wantAPIError(t, "retire a stranger", err, http.StatusNotFound, remote.CodeNotFound)
	_, err = r.client.Retire(t.Context(), "host1", "")
	wantAPIError(t, "without a reason", err, http.StatusBadRequest, remote.CodeBadRequest)

	w.settle(w.event(filewatch.OpCreate, file("/etc/evil", 7, "x")), file("/etc/evil", 7, "x"))
	host.send(remote.KindStatus, remote.Status{State: remote.TargetOff, Target: "vm1"})
	host.send(remote.KindStatus, remote.Status{State: remote.AgentStopping})
	r.said(t, "host1", "the agent on host1 stops") // so that what came before is handled
	for range 3 {
		if err := r.onTick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m := r.machine(t, gone.ID)
	if len(m.Timeline) != lines+1 || m.Timeline[0].Severity != remote.SeverityInfo || !strings.Contains(m.Timeline[0].Text, "host1 still reports about vm1") {
		t.Errorf("timeline: %+v", m.Timeline[:len(m.Timeline)-lines])
	}
	if moments, err := r.Timeline(t.Context(), "vm1", 10); err != nil || len(moments) != 0 {
		t.Errorf("of the name: %+v, %v", moments, err)
	}
	if n := r.fired(); n != 1 {
		t.Errorf("%d scans were fired", n)
	}
}

// A scan that is under way when its machine is retired ends, and its report changes
// nothing.
func TestRetiringEndsAScan(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	scan, err := r.client.StartScan(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	nonce := r.rung(t, 1)
	gone := r.retired(t, "vm1", "decommissioned")
	if s, err := r.client.Scan(t.Context(), scan.ID, 0); err != nil || s.State != remote.ScanFailed || s.Error != "the machine was retired" {
		t.Errorf("%+v, %v", s, err)
	}
	host.send(remote.KindScan, host.scan("vm1", nonce, item("pass")))
	r.said(t, gone.ID, "host1 still reports about vm1")
	if m := r.machine(t, gone.ID); m.Scan.Outcome != "" {
		t.Errorf("scan: %+v", m.Scan)
	}
}

// The certificate of a retired machine is refused by a word of its own, also after another
// TPM has its name; one that was only replaced is told apart.
func TestRefusesRetiredAgent(t *testing.T) {
	r := start(t, twoMachines)
	replaced := r.enrol(t, "host1", remote.RoleHost)
	host := r.enrol(t, "host1", remote.RoleHost)
	gone := r.retired(t, "host1", "stolen")
	refused := func(when string) {
		t.Helper()
		_, err := host.Commands(t.Context(), 0, 0)
		wantAPIError(t, when+", commands", err, http.StatusForbidden, remote.CodeRetired)
		_, err = host.Send(t.Context(), "s", []remote.Record{host.record(1, remote.KindStatus, remote.Status{State: remote.AgentRunning})})
		wantAPIError(t, when+", records", err, http.StatusForbidden, remote.CodeRetired)
		_, err = host.PutBody(t.Context(), []byte("x"))
		wantAPIError(t, when+", body", err, http.StatusForbidden, remote.CodeRetired)
		wantAPIError(t, when+", bodies", host.PutBodies(t.Context(), [][]byte{[]byte("x")}), http.StatusForbidden, remote.CodeRetired)
		_, err = replaced.Commands(t.Context(), 0, 0)
		wantAPIError(t, when+", a replaced certificate", err, http.StatusUnauthorized, remote.CodeUnauth)
	}
	refused("retired")
	r.stateIs(t, "vm1", remote.StateUnknown) // it was never scanned, which outweighs that
	if _, err := r.issue(t.Context(), accepted(t, "host1", "tpm 2", ApproveCA)); err != nil {
		t.Fatalf("another TPM under the free name: %v", err)
	}
	refused("with a successor")
	m := r.machine(t, "host1")
	if m.Retired != nil || m.Enrolment.Approval != "ca" || len(m.Former) != 1 || m.Former[0] != *gone || !m.LastSeen.IsZero() {
		t.Errorf("the successor: %+v", m)
	}
	for _, moment := range m.Timeline {
		if moment.Kind != "enrolment" && moment.Kind != "state" {
			t.Errorf("the successor's timeline has %+v", moment)
		}
	}
	if old := r.machine(t, gone.ID); old.Enrolment.Serial == m.Enrolment.Serial || old.Retired.Reason != "stolen" {
		t.Errorf("the old record: %+v", old)
	}
}

// fired is how many nonces went to BMCs.
func (r *running) fired() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.nonces)
}

// stateIs wants a state now.
func (r *running) stateIs(t *testing.T, name string, want remote.State) {
	t.Helper()
	if m := r.machine(t, name); m.State != want {
		t.Errorf("%s is %s (%v), want %s", name, m.State, m.Reasons, want)
	}
}

// What is measured by a retired host is stale, says why, and another host may report
// about it.
func TestTargetsOfRetiredHost(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	host.send(remote.KindStatus, remote.Status{State: remote.TargetRunning, Target: "vm9"})
	r.said(t, "vm9", "host1 reports about vm9 from now on")
	r.stateIs(t, "vm1", remote.StateTrusted)
	r.retired(t, "host1", "main board burnt")
	if err := r.onTick(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := r.machine(t, "vm1")
	if m.State != remote.StateStale || !strings.Contains(m.Reasons[0], "host1, which measures it, was retired") {
		t.Errorf("vm1 is %s: %v", m.State, m.Reasons)
	}
	_, err := r.client.StartScan(t.Context(), "vm1")
	wantAPIError(t, "scan by a retired host", err, http.StatusConflict, remote.CodeConflict)
	other := r.enrol(t, "host2", remote.RoleHost)
	other.send(remote.KindStatus, remote.Status{State: remote.TargetRunning, Target: "vm9"})
	r.said(t, "vm9", "host2 reports about vm9 from now on")
	// vm1 is host1's by the configuration: nobody else's, whatever became of that.
	other.send(remote.KindStatus, remote.Status{State: remote.TargetRunning, Target: "vm1"})
	r.said(t, "host2", "a record of the agent on host2 was refused")
}

// A TPM that was retired does not come back by its certificate or a list, under whatever
// name; a person may have it back.
func TestRefusesRetiredTPM(t *testing.T) {
	r := start(t, twoMachines)
	if _, err := r.issue(t.Context(), accepted(t, "host1", "tpm 1", ApproveCA)); err != nil {
		t.Fatal(err)
	}
	r.retired(t, "host1", "taken over")
	for _, name := range []string{"host1", "host2"} {
		_, err := r.issue(t.Context(), accepted(t, name, "tpm 1", ApproveCA))
		wantAPIError(t, "as "+name, err, http.StatusForbidden, remote.CodeRetired)
		asks := accepted(t, name, "tpm 1", "")
		result, err := r.settle(t.Context(), asks)
		if err != nil || result.State != remote.EnrolWaiting || !strings.Contains(result.Reason, "this TPM was that of host1, which was retired") {
			t.Errorf("as %s: %+v, %v", name, result, err)
		}
	}
	// The benign twins: another TPM, and an operator's word; after it the TPM is as any other.
	if _, err := r.issue(t.Context(), accepted(t, "host2", "tpm 2", ApproveCA)); err != nil {
		t.Errorf("another TPM: %v", err)
	}
	for _, by := range []Approval{ApproveOperator, ApproveCA} {
		if _, err := r.issue(t.Context(), accepted(t, "host1", "tpm 1", by)); err != nil {
			t.Errorf("back by %s: %v", by, err)
		}
	}
}

// An approval from before the retirement lets nobody back in.
func TestRetiringWithdrawsApprovals(t *testing.T) {
	r := start(t, twoMachines)
	if _, err := r.issue(t.Context(), accepted(t, "host1", "tpm 1", ApproveOperator)); err != nil {
		t.Fatal(err)
	}
	second := accepted(t, "host2", "tpm 1", "")
	if result, err := r.settle(t.Context(), second); err != nil || result.State != remote.EnrolWaiting {
		t.Fatalf("%+v, %v", result, err)
	}
	if _, err := r.client.Decide(t.Context(), second.Key, remote.Decision{Accept: true, Reason: "has two names"}); err != nil {
		t.Fatal(err)
	}
	r.retired(t, "host1", "taken over")
	if _, err := load[enrolment](t.Context(), r.store, inEnrolments, second.Key); !isNotFound(err) {
		t.Errorf("the approved enrolment: %v", err)
	}
}

// Records that an agent delivered before its machine was retired, and that nobody has
// handled yet, change nothing of the machine that has its name now.
func TestRecordsOfBeforeAreDropped(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	before := r.now()
	r.retired(t, "host1", "replaced")
	next := r.enrolAgain(t, "host1")
	for i, received := range []time.Time{before, r.now()} {
		rec := host.record(uint64(i+1), remote.KindStatus, remote.Status{State: remote.AgentStarted, Version: []string{"old", "new"}[i]})
		if _, err := r.store.Append(t.Context(), store.Stream{Agent: "host1", Spool: "s"}, received, []remote.Record{rec}); err != nil {
			t.Fatal(err)
		}
	}
	next.send(remote.KindStatus, remote.Status{State: remote.AgentStopping})
	r.said(t, "host1", "the agent on host1 stops")
	for _, m := range r.machine(t, "host1").Timeline {
		if strings.Contains(m.Text, "version old") {
			t.Errorf("the successor's timeline has %q", m.Text)
		}
	}
	r.said(t, "host1", "version new")
}

// enrolAgain has a TPM enrol under a name that is free.
func (r *running) enrolAgain(t *testing.T, name string) *softAgent {
	t.Helper()
	e := accepted(t, name, "another tpm", ApproveCA)
	if _, err := r.issue(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	return r.enrol(t, name, remote.RoleHost)
}

// A retirement is kept over a restart, and the configuration does not undo it.
func TestRetirementOutlivesARestart(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	var gone *remote.Retirement
	var agent *softAgent
	t.Run("before", func(t *testing.T) {
		r := startIn(t, state, twoMachines)
		agent = r.enrol(t, "host1", remote.RoleHost)
		gone = r.retired(t, "vm1", "decommissioned")
		r.retired(t, "host1", "sold")
	})
	t.Run("after", func(t *testing.T) {
		r := startIn(t, state, twoMachines, func(v *Verifier) { v.firstScan = 0 })
		for range 3 {
			if err := r.onTick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if machines, err := r.client.Machines(t.Context()); err != nil || len(machines) != 0 {
			t.Errorf("in service: %+v, %v", machines, err)
		}
		if m := r.machine(t, "vm1"); m.Retired == nil || *m.Retired != *gone {
			t.Errorf("%+v", m.Retired)
		}
		if r.fired() > 0 {
			t.Error("a scan was fired")
		}
		again, err := remote.NewAgentClient(remote.AgentOptions{Address: r.serving.Address, Trust: r.trust(t), Certificate: agent.certificate})
		if err != nil {
			t.Fatal(err)
		}
		_, err = again.Commands(t.Context(), 0, 0)
		wantAPIError(t, "its agent", err, http.StatusForbidden, remote.CodeRetired)
	})
}

// A name is taken back into service for a machine of which nothing is known: not for its
// history, nor for its credentials.
func TestReadmit(t *testing.T) {
	r, host, w := busy(t)
	wantAPIError(t, "in service", r.client.Readmit(t.Context(), "vm1", "x"), http.StatusConflict, remote.CodeConflict)
	gone := r.retired(t, "vm1", "decommissioned")
	wantAPIError(t, "without a reason", r.client.Readmit(t.Context(), "vm1", ""), http.StatusBadRequest, remote.CodeBadRequest)
	if err := r.client.Readmit(t.Context(), "vm1", "was a mistake"); err != nil {
		t.Fatal(err)
	}
	m := r.machine(t, "vm1")
	if m.Retired != nil || m.State != remote.StateUnknown || m.Scan.Outcome != "" || m.Files.Baseline != "" || len(m.Events) != 0 ||
		len(m.Former) != 1 || m.Former[0] != *gone {
		t.Errorf("%+v", m)
	}
	r.said(t, "vm1", User+" (token) took the name vm1 back into service, for a machine of which nothing is known yet: was a mistake")

	// It is watched and compared as any other; the numbers of its events went on, and its
	// items do not overwrite those of before.
	w.event(filewatch.OpWrite, file("/etc/motd", 1, "x"))
	eventually(t, "the event", func() bool { return len(r.machine(t, "vm1").Events) == 1 })
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "changed"))
	r.violations(t, 1)
	for _, moment := range r.machine(t, "vm1").Timeline {
		if moment.Kind == "loss" {
			t.Errorf("told as lost: %s", moment.Text)
		}
	}
	items, err := r.client.Reviews(t.Context(), "")
	if err != nil || len(items) != 2 || items[0].Machine != "vm1" || items[1].Machine != gone.ID {
		t.Errorf("review: %+v, %v", items, err)
	}
	r.judged(t, 2, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
}

// Only who is logged in retires a machine, by a form that was made for that login; an
// agent may not.
func TestRetireByForm(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	p := r.person(t)
	if resp, _ := p.do("POST", "/machines/vm1/retire", url.Values{"reason": {"x"}}, nil); resp.Request.URL.Path != "/login" {
		t.Errorf("a stranger: %s", resp.Status)
	}
	if resp, _ := p.do("POST", "/v1/hosts/vm1/retire", nil, nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger, by the API: %s", resp.Status)
	}
	_, body := p.login(password)
	token := formToken.FindStringSubmatch(body)[1]
	for name, form := range map[string]url.Values{"no token": {"reason": {"x"}}, "wrong token": {"reason": {"x"}, "form": {"x"}}} {
		if resp, _ := p.do("POST", "/machines/vm1/retire", form, nil); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if resp, _ := p.do("POST", "/machines/vm1/retire", url.Values{"form": {token}}, nil); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no reason: %s", resp.Status)
	}
	if m := r.machine(t, "vm1"); m.Retired != nil {
		t.Fatal("it is retired")
	}
	resp, body := p.do("POST", "/machines/vm1/retire", url.Values{"form": {token}, "reason": {"<b>old</b>"}}, nil)
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "by admin: &lt;b&gt;old&lt;/b&gt;") || strings.Contains(body, "/machines/vm1/scan") {
		t.Errorf("true form: %s\n%s", resp.Status, body)
	}
	gone := r.machine(t, "vm1").Retired
	if gone == nil || gone.By != User {
		t.Fatalf("%+v", gone)
	}
	for path, want := range map[string]string{"/": "retired machine<", "/retired": gone.ID, "/machines/" + gone.ID: "Take the name back", "/events?host=" + gone.ID: "File events"} {
		if resp, body := p.do("GET", path, nil, nil); resp.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %s, without %q", path, resp.Status, want)
		}
	}
	if resp, _ := p.do("POST", "/machines/vm1/readmit", url.Values{"form": {token}, "reason": {"mistake"}}, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("readmit: %s", resp.Status)
	}
	if m := r.machine(t, "vm1"); m.Retired != nil || len(m.Former) != 1 {
		t.Errorf("%+v", m)
	}
}
