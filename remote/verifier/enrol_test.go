package verifier

import (
	"net/http"
	"testing"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// accepted is an enrolment whose TPM was accepted in some way.
func accepted(t *testing.T, name, ek string, by Approval) *doc[enrolment] {
	t.Helper()
	_, csr := newRequest(t)
	return &doc[enrolment]{Document: store.Document{Collection: inEnrolments, Key: newID()}, V: enrolment{
		Request:  remote.EnrolRequest{Name: name, Role: remote.RoleHost, EKPublic: []byte(ek), AKPublic: []byte("ak"), CSR: csr},
		Approval: remote.Enrolment{Approval: string(by)},
	}}
}

// One TPM must not stand for two machines, nor two TPMs for one, however its
// certificate was accepted; the decision is part of the commit.
func TestRefusesSecondNameForATPM(t *testing.T) {
	r := start(t, twoMachines)
	issue := func(name, ek string, by Approval) error {
		_, err := r.issue(t.Context(), accepted(t, name, ek, by))
		return err
	}
	if err := issue("host1", "tpm 1", ApproveCA); err != nil {
		t.Fatal(err)
	}
	wantAPIError(t, "the same TPM under another name", issue("host2", "tpm 1", ApproveCA), http.StatusForbidden, remote.CodeForbidden)
	wantAPIError(t, "another TPM under the same name", issue("host1", "tpm 2", ApproveCA), http.StatusConflict, remote.CodeConflict)
	wantAPIError(t, "even with an operator", issue("host1", "tpm 2", ApproveOperator), http.StatusConflict, remote.CodeConflict)
	// The benign twins: enrolling again, another TPM, and an operator's word.
	for _, c := range []struct {
		name, ek string
		by       Approval
	}{{"host1", "tpm 1", ApproveCA}, {"host2", "tpm 2", ApproveCA}, {"host3", "tpm 1", ApproveOperator}, {"host1", "tpm 1", ApproveCA}} {
		if err := issue(c.name, c.ek, c.by); err != nil {
			t.Errorf("%s with %s by %s: %v", c.name, c.ek, c.by, err)
		}
	}
}

// Of two enrolments under one name that race, one wins.
func TestRacingEnrolmentsHaveOneWinner(t *testing.T) {
	r := start(t, twoMachines)
	results := make(chan error, 2)
	for _, ek := range []string{"tpm 1", "tpm 2"} {
		e := accepted(t, "host1", ek, ApproveCA)
		go func() {
			_, err := r.issue(t.Context(), e)
			results <- err
		}()
	}
	first, second := <-results, <-results
	if (first == nil) == (second == nil) {
		t.Errorf("results: %v, %v", first, second)
	}
}
