package verifier

import (
	"net/http"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// open is the one open review item.
func (r *running) open(t *testing.T) remote.Review {
	t.Helper()
	items, err := r.client.Reviews(t.Context(), reviewOpen)
	if err != nil || len(items) != 1 {
		t.Fatalf("open items: %+v, %v", items, err)
	}
	return items[0]
}

// replacement is an enrolment under host1 by a TPM that does not have that name.
func (r *running) replacement(t *testing.T, ek string) *doc[enrolment] {
	t.Helper()
	e := accepted(t, "host1", ek, "")
	result, err := r.settle(t.Context(), e)
	if err != nil || result.State != remote.EnrolWaiting || !strings.Contains(result.Reason, "accept this one as its replacement") {
		t.Fatalf("%s: %+v, %v", ek, result, err)
	}
	return e
}

// settled is what the agent of an enrolment is answered.
func (r *running) settled(t *testing.T, e *doc[enrolment]) *remote.EnrolResult {
	t.Helper()
	stored, err := load[enrolment](t.Context(), r.store, inEnrolments, e.Key)
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.settle(t.Context(), stored)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// A TPM that asks for the name of another is held back and told as an alert, and the other
// one stays in service; accepted, it has the name, and the other one is retired.
func TestReplacementIsHeldBack(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	e := r.replacement(t, "tpm 2")
	item := r.open(t)
	if item.Kind != reviewReplacement || item.Subject != fingerprintOf([]byte("tpm 2")) || !strings.Contains(item.Detail, fingerprintOf([]byte("ek of host1"))) {
		t.Errorf("%+v", item)
	}
	if m := r.said(t, "host1", "another TPM asks for the name host1"); m.Severity != remote.SeverityAlert {
		t.Errorf("told as %s", m.Severity)
	}
	if _, err := host.Commands(t.Context(), 0, 0); err != nil {
		t.Errorf("the machine that has the name: %v", err)
	}
	_, err := r.client.Decide(t.Context(), item.ID, remote.Decision{Accept: true})
	wantAPIError(t, "without a reason", err, http.StatusBadRequest, remote.CodeBadRequest)
	if state := r.settled(t, e).State; state != remote.EnrolWaiting {
		t.Errorf("before the decision it is %s", state)
	}
	if _, err := r.client.Decide(t.Context(), item.ID, remote.Decision{Accept: true, Reason: "new main board, ticket 7"}); err != nil {
		t.Fatal(err)
	}
	if result := r.settled(t, e); result.State != remote.EnrolDone || len(result.Certificate) == 0 {
		t.Errorf("accepted: %+v", result)
	}
	_, err = host.Commands(t.Context(), 0, 0)
	wantAPIError(t, "the machine of before", err, http.StatusForbidden, remote.CodeRetired)
	m := r.machine(t, "host1")
	if m.Enrolment.EKDigest != item.Subject || m.Enrolment.Approval != "operator" || len(m.Former) != 1 {
		t.Fatalf("%+v", m)
	}
	if gone := m.Former[0]; gone.Reason != "new main board, ticket 7" || gone.By != User+" (token)" || gone.ReplacedBy != item.Subject {
		t.Errorf("%+v", gone)
	}
	items, err := r.client.Reviews(t.Context(), "")
	if err != nil || len(items) != 1 || items[0].State != reviewAccepted || items[0].Machine != "host1" {
		t.Errorf("review: %+v, %v", items, err)
	}
}

// One that is rejected gets nothing, and the name stays where it was.
func TestRefusesReplacement(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	e := r.replacement(t, "tpm 2")
	if _, err := r.client.Decide(t.Context(), r.open(t).ID, remote.Decision{Reason: "nobody replaced anything"}); err != nil {
		t.Fatal(err)
	}
	if result := r.settled(t, e); result.State != remote.EnrolRefused || !strings.Contains(result.Reason, "nobody replaced anything") {
		t.Errorf("%+v", result)
	}
	if _, err := host.Commands(t.Context(), 0, 0); err != nil {
		t.Errorf("the machine that has the name: %v", err)
	}
}

// Whoever asks again is put before a person once, and alerts once.
func TestReplacementAsksOnce(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	first := r.replacement(t, "tpm 2")
	second := r.replacement(t, "tpm 2")
	if item := r.open(t); item.ID != second.Key {
		t.Errorf("the open item is %s, want %s", item.ID, second.Key)
	}
	_, err := r.client.Decide(t.Context(), first.Key, remote.Decision{Accept: true, Reason: "x"})
	wantAPIError(t, "the first one", err, http.StatusConflict, remote.CodeConflict)
	alerts := 0
	for _, m := range r.machine(t, "host1").Timeline {
		if m.Severity == remote.SeverityAlert {
			alerts++
		}
	}
	if alerts != 1 {
		t.Errorf("%d alerts", alerts)
	}
}

// Of two TPMs that ask for a name one is accepted; the other would replace another
// machine then than a person was shown.
func TestReplacementIsOfTheMachineShown(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	second, third := r.replacement(t, "tpm 2"), r.replacement(t, "tpm 3")
	accept := remote.Decision{Accept: true, Reason: "new main board"}
	if _, err := r.client.Decide(t.Context(), third.Key, accept); err != nil {
		t.Fatal(err)
	}
	_, err := r.client.Decide(t.Context(), second.Key, accept)
	wantAPIError(t, "the other one", err, http.StatusConflict, remote.CodeConflict)
	if m := r.machine(t, "host1"); m.Enrolment.EKDigest != fingerprintOf([]byte("tpm 3")) || len(m.Former) != 1 {
		t.Errorf("%+v", m)
	}
	// Asking anew it is shown beside the one that has the name now.
	r.client.Decide(t.Context(), second.Key, remote.Decision{Reason: "outdated"})
	r.replacement(t, "tpm 2")
	if item := r.open(t); !strings.Contains(item.Detail, fingerprintOf([]byte("tpm 3"))) {
		t.Errorf("%+v", item)
	}
}

// A person who retires the machine first is asked all the same: the TPM waits for a
// person, not for the name to be free.
func TestReplacementWaitsForAPersonThoughTheNameIsFree(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	e := r.replacement(t, "tpm 2")
	r.retired(t, "host1", "burnt")
	if result := r.settled(t, e); result.State != remote.EnrolWaiting {
		t.Fatalf("%+v", result)
	}
	item := r.open(t)
	if item.Machine != "host1" {
		t.Errorf("the item is of %s", item.Machine)
	}
	if _, err := r.client.Decide(t.Context(), item.ID, remote.Decision{Accept: true, Reason: "its new board"}); err != nil {
		t.Fatal(err)
	}
	if result := r.settled(t, e); result.State != remote.EnrolDone {
		t.Errorf("%+v", result)
	}
	if m := r.machine(t, "host1"); m.Retired != nil || m.Enrolment.EKDigest != item.Subject || len(m.Former) != 1 {
		t.Errorf("%+v", m)
	}
}

// replacedGuest has a guest's new TPM take its name, as a person says.
func (r *running) replacedGuest(t *testing.T, name string) {
	t.Helper()
	e := accepted(t, name, "new vTPM", "")
	e.V.Request.Role = remote.RoleGuest
	if _, err := r.settle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Decide(t.Context(), e.Key, remote.Decision{Accept: true, Reason: "vTPM lost"}); err != nil {
		t.Fatal(err)
	}
}

// The replacement of a machine whose files are watched from outside is held to its
// baseline: what differs is found again.
func TestReplacementIsHeldToTheBaseline(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	w := newWatch(t, host, "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	r.enrol(t, "vm1", remote.RoleGuest)
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "changed"))
	r.violations(t, 1)
	before := r.machine(t, "vm1")
	r.replacedGuest(t, "vm1")
	m := r.machine(t, "vm1")
	if m.Files.Baseline != before.Files.Baseline || m.MeasuredBy != "host1" || m.State == remote.StateTrusted {
		t.Errorf("%+v", m.Machine)
	}
	rescan := host.command(remote.CommandRescan)
	w.capture(rescan.ID, file("/etc/motd", 1, "changed"))
	r.violations(t, 1)
	w.settle(w.event(filewatch.OpCreate, file("/etc/evil", 7, "x")), file("/etc/evil", 7, "x"))
	r.violations(t, 2)
	for _, line := range r.machine(t, "vm1").Timeline {
		if strings.Contains(line.Text, "never arrived") {
			t.Errorf("told as lost: %s", line.Text)
		}
	}
}

// What the host of before measured does not count for the one that replaced it.
func TestReplacedHostMeasuresAnew(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	w := newWatch(t, host, "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	w.event(filewatch.OpExec, file("/etc/motd", 1, "hello"))
	eventually(t, "that vm1 is trusted", func() bool { return r.machine(t, "vm1").State == remote.StateTrusted })
	r.replacement(t, "tpm 2")
	if _, err := r.client.Decide(t.Context(), r.open(t).ID, remote.Decision{Accept: true, Reason: "new main board"}); err != nil {
		t.Fatal(err)
	}
	next := r.enrol(t, "host1", remote.RoleHost)
	next.spool = "spool2"
	next.send(remote.KindStatus, remote.Status{State: remote.AgentRunning})
	eventually(t, "the heartbeat", func() bool { return !r.machine(t, "host1").LastSeen.IsZero() })
	become := func(state remote.State, why string) {
		t.Helper()
		if err := r.onTick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m := r.machine(t, "vm1"); m.State != state || !strings.Contains(strings.Join(m.Reasons, "\n"), why) {
			t.Errorf("vm1 is %s: %q, want %s, %s", m.State, m.Reasons, state, why)
		}
	}
	become(remote.StateUnknown, "its last scan was by another machine")
	r.judged(t, 2, func(n remote.Nonce) { next.send(remote.KindScan, next.scan("vm1", n, item("pass"))) })
	become(remote.StateStale, "its files were watched by another machine")
	next.send(remote.KindStatus, remote.Status{State: remote.WatchStarted, Target: "vm1", Detail: "anew"})
	w = newWatch(t, next, "vm1")
	w.capture(next.command(remote.CommandRescan).ID, file("/etc/motd", 1, "hello"))
	eventually(t, "that vm1 is trusted", func() bool { return r.machine(t, "vm1").State == remote.StateTrusted })
}
