package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// twoAreas are two public areas of one EK: they differ in its policy, which takes no part
// in a challenge.
func twoAreas(t *testing.T) (one, other string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](publicArea(key))
	if err != nil {
		t.Fatal(err)
	}
	area.ObjectAttributes.SignEncrypt, area.ObjectAttributes.Decrypt = false, true
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Symmetric: tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB)}})
	areas := make([]string, 2)
	for i := range areas {
		area.AuthPolicy.Buffer = make([]byte, 32)
		area.AuthPolicy.Buffer[0] = byte(i)
		areas[i] = string(tpm2.Marshal(area))
	}
	return areas[0], areas[1]
}

// What waits for a TPM ends with its machine, whatever public area it was asked for with.
func TestRetiringWithdrawsWhatAnotherPublicAreaAsked(t *testing.T) {
	r := start(t, twoMachines)
	one, other := twoAreas(t)
	if _, err := r.issue(t.Context(), accepted(t, "host1", one, ApproveCA)); err != nil {
		t.Fatal(err)
	}
	approved, open := accepted(t, "host2", other, ""), accepted(t, "host3", other, "")
	for _, e := range []*doc[enrolment]{approved, open} {
		if result, err := r.settle(t.Context(), e); err != nil || result.State != remote.EnrolWaiting {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if _, err := r.client.Decide(t.Context(), approved.Key, remote.Decision{Accept: true, Reason: "has two names"}); err != nil {
		t.Fatal(err)
	}
	r.retired(t, "host1", "taken over")
	for _, e := range []*doc[enrolment]{approved, open} {
		if _, err := load[enrolment](t.Context(), r.store, inEnrolments, e.Key); !isNotFound(err) {
			t.Errorf("the enrolment as %s: %v", e.V.Request.Name, err)
		}
	}
	if items, err := r.client.Reviews(t.Context(), reviewOpen); err != nil || len(items) != 0 {
		t.Errorf("open items: %+v, %v", items, err)
	}
}

// What a version of before kept of a TPM, by one public area, is found by any.
func TestClaimsOfBeforeHoldForEveryPublicArea(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	one, other := twoAreas(t)
	t.Run("before", func(t *testing.T) {
		r := startIn(t, state, twoMachines)
		r.enrol(t, "host1", remote.RoleHost)
		err := r.changeMachine(t.Context(), "host1", nil, func(m *machine) ([]store.Change, error) {
			m.EKPublic = []byte(one)
			return []store.Change{put(inKeys, fingerprintOf(m.EKPublic), "host1", r.now(), "host1")}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("after", func(t *testing.T) {
		r := startIn(t, state, twoMachines)
		_, err := r.issue(t.Context(), accepted(t, "host2", other, ApproveCA))
		wantAPIError(t, "a second name", err, http.StatusForbidden, remote.CodeForbidden)
		// The benign twin: the same machine enrols again.
		if _, err := r.issue(t.Context(), accepted(t, "host1", other, ApproveCA)); err != nil {
			t.Errorf("its own name: %v", err)
		}
	})
}
