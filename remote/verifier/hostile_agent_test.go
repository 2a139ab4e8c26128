package verifier

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// manifest puts bytes that are no records under a header that fits them.
func manifest(t *testing.T, change func(*baseline.Header)) []byte {
	t.Helper()
	body := []byte("this is no zstd frame")
	sum := blake3.Sum256(body)
	h := baseline.Header{Format: 1, Tool: "x", Created: time.Now().UTC(), Lineage: "l", Version: 1, Objects: 1,
		Body: baseline.Body{Size: int64(len(body)), BLAKE3: hex.EncodeToString(sum[:]), Blocks: []baseline.Block{{Size: int64(len(body)), Path: "/"}}}}
	change(&h)
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.LoadOrCreateKey(t.TempDir() + "/k")
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := sign.Seal("application/vnd.plumbline.baseline.v1+json", text, key)
	if err != nil {
		t.Fatal(err)
	}
	out := append([]byte(baseline.Magic), body...)
	out = binary.LittleEndian.AppendUint64(append(out, envelope...), uint64(len(envelope)))
	return append(out, "plumbend"...)
}

// A manifest whose digests fit and whose records or rules make no sense must not
// stop the records of all agents.
func TestDamagedManifestDoesNotBlock(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	for _, change := range []func(*baseline.Header){
		func(*baseline.Header) {},
		func(h *baseline.Header) { h.Rules = "no = rules" },
	} {
		garbage := manifest(t, change)
		if _, err := a.PutBody(t.Context(), garbage); err != nil {
			t.Fatal(err)
		}
		a.send(remote.KindBaseline, remote.Baseline{Target: "vm1", Manifest: remote.DigestOf(garbage), Objects: 1})
	}
	a.send(remote.KindStatus, remote.Status{State: remote.TargetRebooting, Target: "vm1"})
	r.said(t, "vm1", "vm1 is being restarted")
	r.said(t, "host1", "capture of vm1: rules")
	if m := r.machine(t, "vm1"); m.Files.Baseline != "" {
		t.Error("a damaged capture became the baseline")
	}
}

// Whatever else fails again and again is given up, and told.
func TestRecordThatAlwaysFailsIsGivenUp(t *testing.T) {
	var count tries
	failed := errors.New("x")
	for range maxTries - 1 {
		if count.spent(1, failed) || count.spent(2, store.ErrConflict) {
			t.Fatal("given up too early")
		}
	}
	if !count.spent(1, failed) || count.spent(2, store.ErrConflict) || count.spent(3, failed) {
		t.Error("the wrong record is given up")
	}
	if count.spent(1, nil); count.spent(1, failed) {
		t.Error("a record that was handled is still counted")
	}
}

// A fault in judging what an agent sent ends that scan and not the verifier, which
// would meet the same record after each restart.
func TestPanicInJudgingEndsOneScan(t *testing.T) {
	r := start(t, twoMachines)
	r.judge = func(obs *measure.Observations, refs *check.References) (*measure.Report, error) {
		if obs.Items[0].Check == "panic" {
			panic("index out of range")
		}
		return judgeByName(obs, refs)
	}
	host := r.enrol(t, "host1", remote.RoleHost)
	for i, want := range []remote.ScanState{remote.ScanFailed, remote.ScanJudged} {
		fired, err := r.client.StartScan(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		nonce := r.rung(t, i+1)
		host.send(remote.KindScan, host.scan("vm1", nonce, item([]string{"panic", "pass"}[i])))
		eventually(t, "the scan to end", func() bool {
			s, err := r.client.Scan(t.Context(), fired.ID, 1)
			return err == nil && s.Done()
		})
		if s, err := r.client.Scan(t.Context(), fired.ID, 1); err != nil || s.State != want {
			t.Errorf("scan %d: %+v, %v, want %s", i, s, err, want)
		}
	}
	err := r.takeOrGiveUp(t.Context(), []store.Record{{ID: 1 << 40}}, func(context.Context, store.Record) error { panic("x") })
	if err == nil || !strings.Contains(err.Error(), "internal error: x") {
		t.Errorf("a record whose handling panics: %v", err)
	}
}

// A host must not become the one that reports about another host, nor about a
// machine with a TPM of its own.
func TestRefusesAdoptingMachinesOfTheirOwn(t *testing.T) {
	r := start(t, twoMachines+"[[host]]\nname = \"spare\"\n")
	r.enrol(t, "host1", remote.RoleHost)
	r.enrol(t, "laptop", remote.RoleGuest)
	b := r.enrol(t, "host2", remote.RoleHost)
	for _, target := range []string{"host1", "laptop", "spare", "nobody"} {
		b.send(remote.KindStatus, remote.Status{State: remote.TargetOff, Target: target})
	}
	// The benign twin: one that nobody configured, without a TPM.
	r.said(t, "nobody", "host2 reports about nobody from now on")
	for _, target := range []string{"host1", "laptop", "spare"} {
		if by := r.machine(t, target).MeasuredBy; by != "" {
			t.Errorf("%s is measured by %s", target, by)
		}
	}
}

// After a restart that a scan's quote showed, the boot before says nothing.
func TestRestartedHostIsNotTrustedOnItsLastBoot(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	v := r.Verifier
	err := v.changeMachine(t.Context(), "host1", nil, func(m *machine) ([]store.Change, error) {
		m.Boot.Outcome, m.Boot.LastSuccess = remote.OutcomePass, v.now()
		m.noteReset(7)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	state := func() remote.State {
		d, err := v.loadMachine(t.Context(), "host1")
		if err != nil {
			t.Fatal(err)
		}
		d.V.Boot.Enabled = true
		state, _ := v.assess(&d.V, nil, v.now().Add(6*time.Minute))
		return state
	}
	if got := state(); got != remote.StateTrusted {
		t.Fatalf("before the restart: %s", got)
	}
	if err := v.hostRestarted(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != remote.StateUnknown {
		t.Errorf("after the restart: %s", got)
	}
}
