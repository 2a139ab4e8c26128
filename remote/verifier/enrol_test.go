package verifier

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"strings"
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

// hugeRequest is a certificate request (RFC 2986, 4) for an RSA key of so many
// bits, whose signature has to be computed to be refused.
func hugeRequest(t *testing.T, bits int) []byte {
	t.Helper()
	modulus := bytes.Repeat([]byte{0xFF}, bits/8)
	encode := func(value any) asn1.RawValue {
		der, err := asn1.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	info := encode(struct {
		Version            int
		Subject, PublicKey asn1.RawValue
		Attributes         []asn1.RawValue `asn1:"tag:0"`
	}{0, encode(pkix.Name{CommonName: "x"}.ToRDNSequence()), asn1.RawValue{FullBytes: spki}, nil})
	sha256WithRSA := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	return encode(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{info, sha256WithRSA, asn1.BitString{Bytes: make([]byte, bits/8), BitLength: bits}}).FullBytes
}

// A key of 780,000 bits fits into a request, and verifying one signature of it
// takes more than a minute: a stranger must not be given that.
func TestRefusesHugeKeysOfStrangers(t *testing.T) {
	req := remote.EnrolRequest{Name: "host1", Role: remote.RoleHost, CSR: hugeRequest(t, 16384)}
	if err := checkEnrolRequest(&req); err == nil || !strings.Contains(err.Error(), "an RSA key of 16384 bits") {
		t.Errorf("a key of 16384 bits: %v", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if req.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		t.Fatal(err)
	}
	if err := checkEnrolRequest(&req); err != nil {
		t.Errorf("a key of 2048 bits: %v", err)
	}
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

// An operator who approved a guest has not approved a host, who may report about
// other machines: the same TPM in another role is asked about again.
func TestApprovalIsForOneRole(t *testing.T) {
	r := start(t, twoMachines)
	guest := accepted(t, "vm1", "tpm 1", ApproveOperator)
	guest.V.Request.Role = remote.RoleGuest
	if _, err := r.issue(t.Context(), guest); err != nil {
		t.Fatal(err)
	}
	for role, want := range map[remote.Role]remote.EnrolState{remote.RoleGuest: remote.EnrolDone, remote.RoleHost: remote.EnrolWaiting} {
		again := accepted(t, "vm1", "tpm 1", "")
		again.V.Request.Role = role
		result, err := r.settle(t.Context(), again)
		if err != nil || result.State != want {
			t.Errorf("as a %s again: %+v, %v, want %s", role, result, err, want)
		}
	}
	if m := r.machine(t, "vm1"); m.Role != remote.RoleGuest {
		t.Errorf("vm1 is a %s now", m.Role)
	}
}
