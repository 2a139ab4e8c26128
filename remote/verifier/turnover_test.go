package verifier

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Of a run of file events over a retirement those of before are dropped, and those of the
// machine that is in service are not.
func TestRunOverARetirement(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	host.send(remote.KindStatus, remote.Status{State: remote.TargetRunning, Target: "vm1"})
	r.said(t, "vm1", "vm1 runs")
	before := r.now()
	r.retired(t, "vm1", "reinstalled")
	if err := r.client.Readmit(t.Context(), "vm1", "reinstalled"); err != nil {
		t.Fatal(err)
	}
	var run []store.Record
	for i, received := range []time.Time{before, before, r.now(), r.now()} {
		seq := uint64(i + 1)
		body := remote.Event{Target: "vm1", Stream: "w1", Sequence: seq}
		var err error
		body.Event, err = json.Marshal(&filewatch.Event{Target: "vm1", Sequence: seq, Op: filewatch.OpExec, Path: "/bin/true", Time: received})
		if err != nil {
			t.Fatal(err)
		}
		run = append(run, store.Record{ID: 1000 + int64(i), Stream: store.Stream{Agent: "host1", Spool: "s"}, Received: received, Record: host.record(seq, remote.KindEvent, body)})
	}
	n, err := r.takeSome(t.Context(), run)
	if err != nil || n != len(run) {
		t.Fatalf("%d handled, %v", n, err)
	}
	if events := r.machine(t, "vm1").Events; len(events) != 2 || events[0].Sequence != 4 || events[1].Sequence != 3 {
		t.Errorf("%+v", events)
	}
}

// A capture that was asked for of a machine that was retired since is no baseline of the one
// that replaced it, which is held to the baseline that there is.
func TestBaselineAskedOfBeforeReplacesNothing(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	w := newWatch(t, host, "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	r.enrol(t, "vm1", remote.RoleGuest)
	before := r.machine(t, "vm1").Files.Baseline
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	asked := host.command(remote.CommandBaseline)
	r.replacedGuest(t, "vm1")
	w.capture(asked.ID, file("/etc/motd", 1, "evil"))
	r.violations(t, 1)
	if m := r.machine(t, "vm1"); m.Files.Baseline != before {
		t.Errorf("its baseline is %s, want %s", m.Files.Baseline, before)
	}
}

// What a retired agent delivered before, and nobody understands, alerts nobody.
func TestBadRecordOfARetiredAgent(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	before := r.now()
	r.retired(t, "host1", "sold")
	bad := store.Record{ID: 1000, Stream: store.Stream{Agent: "host1", Spool: "s"}, Received: before, Record: host.record(1, remote.KindStatus, []string{"x"})}
	if _, err := r.takeSome(t.Context(), []store.Record{bad}); err != nil {
		t.Fatal(err)
	}
	event := bad
	event.ID, event.Record = 1001, host.record(2, remote.KindEvent, []string{"x"})
	if _, err := r.takeSome(t.Context(), []store.Record{event}); err != nil {
		t.Fatal(err)
	}
	if moments, err := r.Timeline(t.Context(), "host1", 10); err != nil || len(moments) != 0 {
		t.Errorf("of the name: %+v, %v", moments, err)
	}
}

// A guest whose successor would be a host, which may report about others, is shown as that.
func TestReplacementShowsWhatItWouldBe(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "vm1", remote.RoleGuest)
	const differs = "vm1 is enrolled as a guest; this one would be a host, which may report about other machines"
	for role, said := range map[remote.Role]bool{remote.RoleHost: true, remote.RoleGuest: false} {
		e := accepted(t, "vm1", "new "+string(role), "")
		e.V.Request.Role = role
		if _, err := r.settle(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		item, err := load[reviewEntry](t.Context(), r.store, inReviews, e.Key)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(item.V.Detail, differs) != said {
			t.Errorf("as a %s: %q", role, item.V.Detail)
		}
	}
	p := r.person(t)
	p.login(password)
	if _, body := p.do("GET", "/review", nil, nil); !strings.Contains(body, "another TPM asks for the name vm1, as a host") {
		t.Errorf("the console does not show the role:\n%s", body)
	}
}

// A TPM that asks for a name while its machine is being retired is put before a person who
// can decide: its item is not moved to the record of the machine that was retired.
func TestAskingWhileRetiring(t *testing.T) {
	r := start(t, twoMachines)
	for range 5 {
		if _, err := r.issue(t.Context(), accepted(t, "host1", newID(), ApproveCA)); err != nil {
			t.Fatal(err)
		}
		var asking sync.WaitGroup
		for range 8 {
			e := accepted(t, "host1", newID(), "")
			asking.Go(func() {
				if _, err := r.settle(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
		r.retired(t, "host1", "sold")
		asking.Wait()
		items, err := r.client.Reviews(t.Context(), reviewOpen)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Machine != "host1" {
				t.Errorf("an item of %s is open", item.Machine)
			}
			if _, err := r.client.Decide(t.Context(), item.ID, remote.Decision{Reason: "no"}); err != nil {
				t.Errorf("refuse %s: %v", item.ID, err)
			}
		}
	}
}

// A scan that is asked for while its machine is being retired ends with it, or is refused.
func TestScanningWhileRetiring(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	for range 5 {
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() { r.client.StartScan(t.Context(), "vm1") })
		}
		r.retired(t, "vm1", "reinstalled")
		asking.Wait()
		open, err := r.openScans(t.Context(), remote.ScanQueued, remote.ScanFired, remote.ScanWaiting)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range open {
			t.Errorf("a scan of %s is %s", s.Machine, s.V.State)
		}
		if err := r.client.Readmit(t.Context(), "vm1", "reinstalled"); err != nil {
			t.Fatal(err)
		}
	}
}

// A loss of records that the agent of before is told of late is none of its successor's.
func TestLossOfARetiredAgent(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	before, err := r.loadMachine(t.Context(), "host1")
	if err != nil {
		t.Fatal(err)
	}
	r.retired(t, "host1", "sold")
	next := r.enrolAgain(t, "host1")
	err = r.noteReceipt(t.Context(), &before.V, store.Stream{Agent: "host1", Spool: "old"}, store.Receipt{Gaps: []store.Gap{{From: 1, To: 2}}})
	if !errors.Is(err, errRetired) {
		t.Errorf("the agent of before: %v", err)
	}
	after, err := r.loadMachine(t.Context(), "host1")
	if err != nil {
		t.Fatal(err)
	}
	if after.V.Spool == "old" {
		t.Error("its spool is the successor's")
	}
	// The benign twin.
	if err := r.noteReceipt(t.Context(), &after.V, store.Stream{Agent: "host1", Spool: "new"}, store.Receipt{Gaps: []store.Gap{{From: 1, To: 2}}}); err != nil {
		t.Error(err)
	}
	r.said(t, "host1", "records 1 to 2 of the agent on "+next.name+" never arrived")
}

// The record of a retired machine is told from a machine that there never was, whoever
// would change it.
func TestRecordsOfRetiredMachinesAreNotChanged(t *testing.T) {
	r := start(t, twoMachines)
	id := r.retired(t, "vm1", "sold").ID
	for name, try := range map[string]func(string) error{
		"scan":     func(id string) error { _, err := r.client.StartScan(t.Context(), id); return err },
		"attest":   func(id string) error { return r.client.StartAttestation(t.Context(), id) },
		"baseline": func(id string) error { return r.client.StartBaseline(t.Context(), id) },
		"retire":   func(id string) error { _, err := r.client.Retire(t.Context(), id, "x"); return err },
		"readmit":  func(id string) error { return r.client.Readmit(t.Context(), id, "x") },
	} {
		wantAPIError(t, name, try(id), http.StatusConflict, remote.CodeConflict)
		wantAPIError(t, name+" of none", try("vm1~0011"), http.StatusNotFound, remote.CodeNotFound)
	}
}
