package verifier

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// judged fires a scan of vm1, answers it by report, and waits for the end.
func (r *running) judged(t *testing.T, n int, answer func(remote.Nonce)) *remote.ScanEntry {
	t.Helper()
	fired, err := r.client.StartScan(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	answer(r.rung(t, n))
	scan, err := r.client.Scan(t.Context(), fired.ID, 30)
	if err != nil {
		t.Fatal(err)
	}
	return scan
}

func TestScanGivesAVerdictOfItsOwn(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	for i, test := range []struct {
		items   []measure.Observation
		outcome string
		state   remote.State
	}{
		{[]measure.Observation{item("pass")}, "pass", remote.StateTrusted},
		{[]measure.Observation{item("pass"), item("fail")}, "fail", remote.StateUntrusted},
		{[]measure.Observation{item("pass"), item("not-measured")}, "incomplete", remote.StateUnknown},
		{nil, "incomplete", remote.StateUnknown},
		{[]measure.Observation{item("pass")}, "pass", remote.StateTrusted},
	} {
		scan := r.judged(t, i+1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, test.items...)) })
		if scan.State != remote.ScanJudged || scan.Outcome != test.outcome {
			t.Fatalf("scan %d: %s, %s (%s), want %s", i, scan.State, scan.Outcome, scan.Error, test.outcome)
		}
		if m := r.machine(t, "vm1"); m.State != test.state {
			t.Errorf("scan %d: the machine is %s %q, want %s", i, m.State, m.Reasons, test.state)
		}
	}
	if moment := r.said(t, "vm1", "do_idt+0x4: a byte of text was changed"); moment.Severity != remote.SeverityAlert {
		t.Errorf("a failed scan is told as %s", moment.Severity)
	}
}

// What is not the answer to a nonce of ours by the enrolled TPM is refused,
// told, and changes nothing: the scan still takes the true report.
func TestRefusesScanReports(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	other := r.enrol(t, "host2", remote.RoleHost)
	first := r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	used := r.rung(t, 1)

	fired, err := r.client.StartScan(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	nonce := r.rung(t, 2)
	edit := func(change func(*remote.Scan)) *remote.Scan {
		s := host.scan("vm1", nonce, item("pass"))
		change(s)
		return s
	}
	for _, attack := range []struct {
		name  string
		agent *softAgent
		scan  *remote.Scan
		says  string
	}{
		{"replayed report", host, host.scan("vm1", used, item("pass")), "a replay"},
		{"nonce nobody gave out", host, host.scan("vm1", newNonce(), item("pass")), "never gave out"},
		{"nonce of another target", host, host.scan("host1", nonce, item("pass")), "given out for something else"},
		{"observations changed after the quote", host, edit(func(s *remote.Scan) {
			s.Observations = []byte(strings.Replace(string(s.Observations), `"pass"`, `"fail"`, 1))
		}), "another nonce"},
		{"observations for another nonce", host, edit(func(s *remote.Scan) {
			o := &measure.Observations{Nonce: used[:], TakenAt: time.Now()}
			s.Observations, _ = o.Encode()
			bound := measure.Bind(nonce[:], s.Observations)
			s.Quote, s.Signature = host.quote(bound[:])
		}), "made for another nonce"},
		{"quote signed by another key", host, edit(func(s *remote.Scan) {
			bound := measure.Bind(nonce[:], s.Observations)
			s.Quote, s.Signature = other.quote(bound[:])
		}), "signature does not verify"},
		{"key that is not the enrolled one", host, edit(func(s *remote.Scan) {
			s.AKPublic = other.pub
			bound := measure.Bind(nonce[:], s.Observations)
			s.Quote, s.Signature = other.quote(bound[:])
		}), "not quoted by the enrolled"},
		{"no quote", host, edit(func(s *remote.Scan) { s.Quote, s.Signature = nil, nil }), "signature"},
		{"host that does not measure the target", other, other.scan("vm1", nonce, item("pass")), "not its own to measure"},
		{"observations that are no JSON", host, edit(func(s *remote.Scan) {
			s.Observations = []byte("{")
			bound := measure.Bind(nonce[:], s.Observations)
			s.Quote, s.Signature = host.quote(bound[:])
		}), "invalid observations"},
	} {
		attack.agent.send(remote.KindScan, attack.scan)
		if m := r.said(t, attack.agent.name, attack.says); m.Severity != remote.SeverityAlert {
			t.Errorf("%s is told as %s", attack.name, m.Severity)
		}
		scan, err := r.client.Scan(t.Context(), fired.ID, 0)
		if err != nil || scan.State != remote.ScanFired {
			t.Fatalf("after a %s the scan is %+v, %v", attack.name, scan, err)
		}
		if m := r.machine(t, "vm1"); m.State != remote.StateTrusted || m.Scan.ID != first.ID {
			t.Fatalf("after a %s the machine is %s, last scan %s", attack.name, m.State, m.Scan.ID)
		}
	}
	host.send(remote.KindScan, host.scan("vm1", nonce, item("pass")))
	if scan, err := r.client.Scan(t.Context(), fired.ID, 30); err != nil || scan.Outcome != remote.OutcomePass {
		t.Errorf("the true report: %+v, %v", scan, err)
	}
}

func TestPagesAreAskedForOnce(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	page := []byte("a page of text that was patched")
	digest, err := json.Marshal(check.DigestOf(page))
	if err != nil {
		t.Fatal(err)
	}
	needs := measure.Observation{Check: "pages", Data: digest}
	scan := r.judged(t, 1, func(n remote.Nonce) {
		host.send(remote.KindScan, host.scan("vm1", n, needs))
		command := host.command(remote.CommandBodies)
		if len(command.Digests) != 1 || command.Digests[0] != remote.DigestOf(page) {
			t.Errorf("asked for %v", command.Digests)
		}
		if err := host.PutBodies(t.Context(), [][]byte{page}); err != nil {
			t.Error(err)
		}
	})
	if scan.Outcome != remote.OutcomePass {
		t.Fatalf("scan: %+v", scan)
	}
	scan = r.judged(t, 2, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, needs)) })
	if scan.Outcome != remote.OutcomePass {
		t.Errorf("second scan, whose page was judged before: %+v", scan)
	}
	later := &Verifier{store: r.store, now: func() time.Time { return r.now().Add(pagesKept) }}
	for _, test := range []struct {
		v    *Verifier
		left int
	}{{r.Verifier, 1}, {later, 0}} {
		if err := test.v.forgetPages(t.Context()); err != nil {
			t.Fatal(err)
		}
		missing, err := r.store.Missing(t.Context(), []remote.Digest{remote.DigestOf(page)})
		if err != nil || 1-len(missing) != test.left {
			t.Errorf("%d pages are kept, want %d (%v)", 1-len(missing), test.left, err)
		}
	}
}

func TestAgentWithoutThePagesEndsTheScan(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	digest, err := json.Marshal(check.DigestOf([]byte("gone")))
	if err != nil {
		t.Fatal(err)
	}
	scan := r.judged(t, 1, func(n remote.Nonce) {
		host.send(remote.KindScan, host.scan("vm1", n, measure.Observation{Check: "pages", Data: digest}))
		command := host.command(remote.CommandBodies)
		r.buryScans(t)
		host.send(remote.KindStatus, remote.Status{State: remote.CommandFailed, Command: command.ID, Detail: "restarted"})
	})
	if scan.State != remote.ScanFailed || scan.Outcome != "" {
		t.Errorf("scan: %+v", scan)
	}
}

// What is due is fired though nobody asks.
func TestDueScanIsFired(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	eventually(t, "a plan", func() bool { return !r.machine(t, "vm1").Scan.Next.IsZero() })
	err := r.changeMachine(t.Context(), "vm1", nil, func(m *machine) ([]store.Change, error) {
		m.Scan.Next = r.now().Add(-time.Second)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	host.send(remote.KindScan, host.scan("vm1", r.rung(t, 1), item("pass")))
	eventually(t, "its verdict", func() bool { return r.machine(t, "vm1").Scan.Outcome == remote.OutcomePass })
	m := r.machine(t, "vm1")
	if len(m.Scans) != 1 || m.Scans[0].Cause != scheduled || !m.Scan.Next.After(r.now()) {
		t.Errorf("scans %+v, the next is due at %s", m.Scans, m.Scan.Next)
	}
}

// buryScans stores so many newer scans that nobody would look behind them.
func (r *running) buryScans(t *testing.T) {
	t.Helper()
	var changes []store.Change
	for range 2000 {
		s := scanEntry{ScanEntry: remote.ScanEntry{ID: newID(), Machine: "other", State: remote.ScanJudged, FiredAt: r.now().Add(time.Hour)}}
		changes = append(changes, create(inScans, s.ID, s.Machine, s.FiredAt, s))
	}
	if err := r.store.Apply(t.Context(), nil, changes...); err != nil {
		t.Fatal(err)
	}
}

// Silence is stale, never untrusted.
func TestNoReportIsStale(t *testing.T) {
	r := start(t, strings.Replace(twoMachines, `"10m"`, `"10s"`, 1))
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	scan := r.judged(t, 2, func(remote.Nonce) {})
	if scan.State != remote.ScanNoReport {
		t.Errorf("scan: %+v", scan)
	}
	if m := r.machine(t, "vm1"); m.State != remote.StateStale || m.Scan.Outcome != remote.OutcomePass {
		t.Errorf("the machine is %s %q, outcome %s", m.State, m.Reasons, m.Scan.Outcome)
	}
	late := r.rung(t, 2)
	host.send(remote.KindScan, host.scan("vm1", late, item("pass")))
	r.said(t, "host1", "expired")
}

func TestUnreachableBMCIsStale(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	r.mu.Lock()
	r.bmcErr = errors.New("BMC does not answer")
	r.mu.Unlock()
	fired, err := r.client.StartScan(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	scan, err := r.client.Scan(t.Context(), fired.ID, 30)
	if err != nil || scan.State != remote.ScanFailed || scan.Error != "BMC does not answer" {
		t.Errorf("scan: %+v, %v", scan, err)
	}
	if m := r.machine(t, "vm1"); m.State == remote.StateUntrusted || m.Scan.LastAttempt.IsZero() || !m.Scan.LastSuccess.IsZero() {
		t.Errorf("the machine is %s, scan %+v", m.State, m.Scan)
	}
}

func TestScanOfUnknownMachine(t *testing.T) {
	r := start(t, twoMachines)
	_, err := r.client.StartScan(t.Context(), "nobody")
	wantAPIError(t, "unknown", err, 404, remote.CodeNotFound)
	_, err = r.client.StartScan(t.Context(), "host1")
	wantAPIError(t, "no BMC", err, 409, remote.CodeConflict)
}

// A host whose quote shows another boot than the one appraised must attest
// anew before it counts.
func TestRestartedHostIsAskedToAttest(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	d, err := r.loadMachine(t.Context(), "host1")
	if err != nil {
		t.Fatal(err)
	}
	d.V.noteReset(1)
	if err := r.apply(t.Context(), nil, d.change()); err != nil {
		t.Fatal(err)
	}
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	host.reset = 2
	scan := r.judged(t, 2, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	if !containsFold(scan.HostBoot, "restarted") {
		t.Errorf("the scan says of its host: %q", scan.HostBoot)
	}
	if c := host.command(remote.CommandAttest); c.Nonce == nil || c.Target != "host1" {
		t.Errorf("command %+v", c)
	}
	if m := r.machine(t, "host1"); m.State != remote.StateRebooting {
		t.Errorf("the host is %s", m.State)
	}
}
