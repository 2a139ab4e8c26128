//go:build lab

package tpm_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
)

// pair is two TPMs of two makers. Making one takes a second of a quiet machine
// and many of a busy one, so the tests share them.
type pair struct{ honest, rogue *tpmtest.Emulator }

func TestTPM(t *testing.T) {
	p := pair{tpmtest.Start(t), tpmtest.Start(t)}
	t.Run("enrolment", p.enrolment)
	t.Run("refuses EK from another CA", p.refusesEKFromAnotherCA)
	t.Run("refuses borrowed certificate", p.refusesBorrowedCertificate)
	t.Run("refuses AK of another TPM", p.refusesAKOfAnotherTPM)
	t.Run("AK survives restart and reset", p.akSurvivesRestartAndReset)
	t.Run("quote shows counters", p.quoteShowsCounters)
}

func open(t *testing.T, e *tpmtest.Emulator) *tpm.TPM {
	t.Helper()
	dev, err := tpm.Open(e.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func createAK(t *testing.T, dev *tpm.TPM) *tpm.AK {
	t.Helper()
	ak, err := dev.CreateAK()
	if err != nil {
		t.Fatal(err)
	}
	return ak
}

func identity(t *testing.T, dev *tpm.TPM, ak *tpm.AK) *attest.Identity {
	t.Helper()
	id, err := dev.Identity(ak)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// enrolment is the benign twin of the attacks below.
func (p pair) enrolment(t *testing.T) {
	e := p.honest
	dev := open(t, e)
	ak := createAK(t, dev)
	id := identity(t, dev, ak)
	cert, err := attest.VerifyEK(id, e.Intermediates, e.Roots)
	if err != nil {
		t.Fatalf("VerifyEK: %v", err)
	}
	if cert.IsCA {
		t.Error("the EK certificate is a CA's")
	}
	challenge, want, err := attest.NewChallenge(id)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dev.Activate(ak, challenge)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("activation gave %x, want %x", got, want)
	}
}

func (p pair) refusesEKFromAnotherCA(t *testing.T) {
	e, other := p.honest, p.rogue
	dev := open(t, e)
	id := identity(t, dev, createAK(t, dev))
	if _, err := attest.VerifyEK(id, other.Intermediates, other.Roots); !errors.Is(err, attest.ErrEKUntrusted) {
		t.Errorf("another CA: %v, want ErrEKUntrusted", err)
	}
	if _, err := attest.VerifyEK(id, e.Intermediates, nil); !errors.Is(err, attest.ErrEKUntrusted) {
		t.Errorf("no CA: %v, want ErrEKUntrusted", err)
	}
	if _, err := attest.VerifyEK(id, nil, e.Roots); !errors.Is(err, attest.ErrEKUntrusted) {
		t.Errorf("missing intermediate: %v, want ErrEKUntrusted", err)
	}
}

// refusesBorrowedCertificate shows one TPM's certificate beside another
// TPM's key.
func (p pair) refusesBorrowedCertificate(t *testing.T) {
	honest, rogue := p.honest, p.rogue
	dev, rogueDev := open(t, honest), open(t, rogue)
	id := identity(t, rogueDev, createAK(t, rogueDev))
	cert, err := dev.EKCertificate()
	if err != nil {
		t.Fatal(err)
	}
	id.EKCertificates = [][]byte{cert}
	if _, err := attest.VerifyEK(id, honest.Intermediates, honest.Roots); !errors.Is(err, attest.ErrEK) {
		t.Errorf("VerifyEK: %v, want ErrEK", err)
	}
}

// refusesAKOfAnotherTPM tries to enrol a key that is not in the TPM whose
// endorsement key is shown: neither TPM can open the challenge.
func (p pair) refusesAKOfAnotherTPM(t *testing.T) {
	honest, rogue := p.honest, p.rogue
	dev, rogueDev := open(t, honest), open(t, rogue)
	ak, rogueAK := createAK(t, dev), createAK(t, rogueDev)
	id := identity(t, dev, ak)
	id.AK = rogueAK.Public()
	challenge, _, err := attest.NewChallenge(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Activate(ak, challenge); !errors.Is(err, tpm.ErrActivation) {
		t.Errorf("TPM with the EK: %v, want ErrActivation", err)
	}
	if _, err := rogueDev.Activate(rogueAK, challenge); !errors.Is(err, tpm.ErrActivation) {
		t.Errorf("TPM with the AK: %v, want ErrActivation", err)
	}
}

func (p pair) akSurvivesRestartAndReset(t *testing.T) {
	e := p.honest
	state := filepath.Join(t.TempDir(), "ak.json")
	first, err := open(t, e).LoadOrCreateAK(state)
	if err != nil {
		t.Fatal(err)
	}
	e.Reset(t)
	second, err := open(t, e).LoadOrCreateAK(state)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Public(), second.Public()) {
		t.Error("the key changed over a reset")
	}
	if public, err := tpm.ReadPublic(state); err != nil || !bytes.Equal(public, first.Public()) {
		t.Errorf("ReadPublic: %x, %v", public, err)
	}
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
	if _, err := open(t, p.rogue).LoadOrCreateAK(state); !errors.Is(err, tpm.ErrAKChanged) {
		t.Errorf("on another TPM: %v, want ErrAKChanged", err)
	}
}

func (p pair) quoteShowsCounters(t *testing.T) {
	e := p.honest
	dev := open(t, e)
	ak := createAK(t, dev)
	nonce := []byte("nonce of the first boot")
	before := quote(t, dev, ak, nonce)
	e.Reset(t)
	after := quote(t, dev, ak, nonce)
	if after.ResetCount != before.ResetCount+1 {
		t.Errorf("reset count %d after a boot with %d", after.ResetCount, before.ResetCount)
	}
	if before.FirmwareVersion == 0 || before.FirmwareVersion != after.FirmwareVersion {
		t.Errorf("firmware version %#x, then %#x", before.FirmwareVersion, after.FirmwareVersion)
	}
	want := []attest.Selection{{Algorithm: "sha256", PCRs: []int{0, 7, 23}}}
	if diff := cmp.Diff(want, after.Selections); diff != "" {
		t.Error(diff)
	}
}

func quote(t *testing.T, dev *tpm.TPM, ak *tpm.AK, nonce []byte) *attest.Quote {
	t.Helper()
	sel := attest.Selection{Algorithm: "sha256", PCRs: []int{0, 7, 23}}
	data, signature, err := dev.Quote(ak, nonce, sel)
	if err != nil {
		t.Fatal(err)
	}
	q, err := attest.VerifyQuote(ak.Public(), data, signature, nonce)
	if err != nil {
		t.Fatal(err)
	}
	bank, err := dev.ReadPCRs(sel)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.CheckPCRs([]attest.Bank{bank}); err != nil {
		t.Fatal(err)
	}
	return q
}

func TestOpenRefusesWhatIsNoTPM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(t.TempDir(), "absent")} {
		if _, err := tpm.Open(path); !errors.Is(err, tpm.ErrNoTPM) {
			t.Errorf("Open(%s): %v, want ErrNoTPM", path, err)
		}
	}
}
