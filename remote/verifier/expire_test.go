package verifier

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// after is the same verifier some time later.
func (r *running) after(d time.Duration) *Verifier {
	return &Verifier{store: r.store, hub: r.hub, config: &Config{}, refs: r.refs, now: func() time.Time { return r.now().Add(d) }}
}

// An agent that was away must not be asked for quotes over nonces that have expired:
// each answer would be an alert.
func TestStaleChallengesAreDropped(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	for range 3 {
		if err := r.client.StartAttestation(t.Context(), "host1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	kinds := func(v *Verifier) (kinds []remote.CommandKind) {
		t.Helper()
		open, err := v.openCommands(t.Context(), "host1")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range open {
			kinds = append(kinds, c.Kind)
		}
		return kinds
	}
	for _, test := range []struct {
		later time.Duration
		want  []remote.CommandKind
	}{
		{0, []remote.CommandKind{remote.CommandAttest, remote.CommandAttest, remote.CommandAttest, remote.CommandBaseline}},
		{attestationLife + time.Minute, []remote.CommandKind{remote.CommandBaseline}},
	} {
		v := r.after(test.later)
		if got := kinds(v); !slices.Equal(got, test.want) {
			t.Errorf("after %s %v are open, want %v", test.later, got, test.want)
		}
		if err := v.expireCommands(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.stored(t, inCommands); len(got) != len(test.want) {
			t.Errorf("after %s the store has %q, want %d", test.later, got, len(test.want))
		}
	}
	if c := a.command(remote.CommandBaseline); c.Target != "vm1" {
		t.Errorf("the agent gets %+v", c)
	}
}

// What a command was for is forgotten when it failed and when nobody can answer any
// more, and not while the agent has yet to come for it.
func TestForgetsWhatWasAsked(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	var ids []uint64
	for range 3 {
		if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, a.command(remote.CommandBaseline).ID)
	}
	left := func(want ...uint64) {
		t.Helper()
		var keys []string
		for _, id := range want {
			keys = append(keys, fmt.Sprint(id))
		}
		got := r.stored(t, inAsked)
		slices.Sort(got)
		slices.Sort(keys)
		if !slices.Equal(got, keys) {
			t.Errorf("asked are %q, want %q", got, keys)
		}
	}
	left(ids...)
	// The third is neither acknowledged nor answered: taking the second's number
	// acknowledges the first two.
	a.send(remote.KindStatus, remote.Status{State: remote.CommandFailed, Target: "vm1", Command: ids[0], Detail: "no disk"})
	r.said(t, "vm1", "could not do as asked: no disk")
	left(ids[1:]...)
	for _, test := range []struct {
		later time.Duration
		want  []uint64
	}{{askedKept - time.Hour, ids[1:]}, {askedKept + time.Hour, ids[2:]}} {
		if err := r.after(test.later).expireCommands(t.Context()); err != nil {
			t.Fatal(err)
		}
		left(test.want...)
	}
}

// An agent must not have what another was asked forgotten.
func TestFailureForgetsOnlyItsOwnQuestion(t *testing.T) {
	r := start(t, twoMachines)
	a, b := r.enrol(t, "host1", remote.RoleHost), r.enrol(t, "host2", remote.RoleHost)
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	c := a.command(remote.CommandBaseline)
	b.send(remote.KindStatus, remote.Status{State: remote.CommandFailed, Command: c.ID, Detail: "not mine"})
	r.said(t, "host2", "could not do as asked: not mine")
	if got := r.stored(t, inAsked); len(got) != 1 {
		t.Errorf("asked: %q", got)
	}
}

// A page that scans go on showing stays accepted; one that none showed for long is
// judged anew, also by a verifier that has it in memory.
func TestAcceptedPagesExpire(t *testing.T) {
	r := start(t, twoMachines)
	used, unused := check.PageKey(check.DigestOf([]byte("used"))), check.PageKey(check.DigestOf([]byte("unused")))
	pages := r.refs.acceptedPages(t.Context(), r.store, r.now())
	pages.Accept(used)
	pages.Accept(unused)
	if err := pages.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	var v *Verifier
	for day := range 40 {
		v = r.after(time.Duration(day) * 24 * time.Hour)
		pages = v.refs.acceptedPages(t.Context(), v.store, v.now())
		if !pages.Accepted(used) {
			t.Fatalf("a page in use is not accepted on day %d", day)
		}
		if err := pages.save(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := v.expirePages(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if pages = v.refs.acceptedPages(t.Context(), v.store, v.now()); pages.Accepted(unused) {
		t.Error("a page that no scan showed for 40 days is accepted")
	}
	if got := r.stored(t, inPages); !slices.Equal(got, []string{pageName(used)}) {
		t.Errorf("kept are %q", got)
	}
}

// What an agent sends unasked goes with what is old; what the verifier needs stays,
// whoever sent it.
func TestForgetsUploadsThatNobodyNames(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	scan := r.judged(t, 1, func(n remote.Nonce) { a.send(remote.KindScan, a.scan("vm1", n, item("pass"))) })
	observed := r.scanBodies(t, []string{scan.ID})[0]
	observations, err := r.store.Body(t.Context(), observed)
	if err != nil {
		t.Fatal(err)
	}
	garbage, err := a.PutBody(t.Context(), []byte("nobody asked for this"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutBodies(t.Context(), [][]byte{[]byte("nor for this"), observations}); err != nil {
		t.Fatal(err)
	}
	bodies := []remote.Digest{garbage, remote.DigestOf([]byte("nor for this")), observed}
	for _, test := range []struct {
		keep time.Duration
		gone []remote.Digest
	}{{0, nil}, {4 * minKeep, nil}, {minKeep, bodies[:2]}} {
		v := r.after(3 * minKeep)
		v.config.Keep = Duration(test.keep)
		if err := v.forgetOld(t.Context()); err != nil {
			t.Fatal(err)
		}
		if missing, err := r.store.Missing(t.Context(), bodies); err != nil || !slices.Equal(missing, test.gone) {
			t.Errorf("keep %s: %v are gone, want %v (%v)", test.keep, missing, test.gone, err)
		}
	}
	if got := r.stored(t, inUploads); len(got) != 0 {
		t.Errorf("uploads %q are still noted", got)
	}
}

// The bulk of a report that answers no nonce of ours is not kept.
func TestRefusedReportLeavesNoBody(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	report := a.scan("vm1", newNonce(), item("pass"))
	a.send(remote.KindScan, report)
	r.said(t, "host1", errNonceUnknown.Error())
	_, err := r.store.Body(t.Context(), remote.DigestOf(report.Observations))
	if !isNotFound(err) {
		t.Errorf("its observations are kept: %v", err)
	}
}

// A machine without a baseline is not asked for another one while its agent is away
// or at it.
func TestFirstBaselineIsAskedOnce(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	a.send(remote.KindStatus, remote.Status{State: remote.WatchStarted, Target: "vm1"})
	r.said(t, "vm1", "file operations on vm1 are watched")
	ask := func(later time.Duration) int {
		t.Helper()
		v := r.after(later)
		var changes []store.Change
		m, err := v.loadMachine(t.Context(), "vm1")
		if err == nil {
			changes, err = v.askFirstBaseline(t.Context(), &m.V)
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(changes)
	}
	if n := ask(3 * firstBaselineEvery); n != 0 {
		t.Errorf("asked again while the first is open: %d changes", n)
	}
	c := a.command(remote.CommandBaseline)
	if _, err := a.Commands(t.Context(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	if n := ask(3 * firstBaselineEvery); n == 0 {
		t.Error("not asked again after the first came to nothing")
	}
}
