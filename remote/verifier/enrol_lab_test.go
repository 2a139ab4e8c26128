//go:build lab

package verifier

import (
	"crypto/ecdsa"
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
	"github.com/plumbline-sec/plumbline/remote"
)

// newcomer is an agent with a TPM that wants to enrol.
type newcomer struct {
	t      *testing.T
	r      *running
	device *tpm.TPM
	ak     *tpm.AK
	id     *attest.Identity
	client *remote.AgentClient
}

func (r *running) newcomer(t *testing.T, e *tpmtest.Emulator) *newcomer {
	t.Helper()
	n := &newcomer{t: t, r: r}
	var err error
	if n.device, err = tpm.Open(e.Path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.device.Close() })
	if n.ak, err = n.device.CreateAK(); err != nil {
		t.Fatal(err)
	}
	if n.id, err = n.device.Identity(n.ak); err != nil {
		t.Fatal(err)
	}
	n.client, err = remote.NewAgentClient(remote.AgentOptions{Address: r.serving.Address, Trust: remote.Trust{Fingerprint: r.serving.Fingerprint}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *newcomer) request(name string) *remote.EnrolRequest {
	n.t.Helper()
	_, csr := newRequest(n.t)
	return &remote.EnrolRequest{Name: name, Role: remote.RoleHost, EKCertificates: n.id.EKCertificates, EKPublic: n.id.EK, AKPublic: n.id.AK, CSR: csr}
}

// enrolled is the client of a newcomer with the certificate that it got for a key.
func (n *newcomer) enrolled(result *remote.EnrolResult, key *ecdsa.PrivateKey) *remote.AgentClient {
	n.t.Helper()
	certs, err := remote.ParseCertificates(result.Certificate)
	if err != nil {
		n.t.Fatal(err)
	}
	client, err := remote.NewAgentClient(remote.AgentOptions{Address: n.r.serving.Address, Trust: remote.Trust{CA: result.CA},
		Certificate: &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key}})
	if err != nil {
		n.t.Fatal(err)
	}
	return client
}

// prove asks, activates and answers.
func (n *newcomer) prove(req *remote.EnrolRequest) (id string, secret []byte, result *remote.EnrolResult, err error) {
	n.t.Helper()
	challenge, err := n.client.Enrol(n.t.Context(), req)
	if err != nil {
		return "", nil, nil, err
	}
	secret, err = n.device.Activate(n.ak, &attest.Challenge{Credential: challenge.CredentialBlob, Secret: challenge.EncryptedSecret})
	if err != nil {
		n.t.Fatal(err)
	}
	result, err = n.client.Answer(n.t.Context(), challenge.ID, secret)
	return challenge.ID, secret, result, err
}

func TestEnrolment(t *testing.T) {
	e := tpmtest.Start(t)
	r := start(t, fmt.Sprintf("listen = \"127.0.0.1:0\"\n[enrolment]\napproval = [\"ca\"]\nca = [%q]\nintermediates = [%q]\n", e.RootFile, e.IntermediateFile))
	n := r.newcomer(t, e)
	key, csr := newRequest(t)
	req := n.request("host1")
	req.CSR = csr
	_, _, result, err := n.prove(req)
	if err != nil || result.State != remote.EnrolDone {
		t.Fatalf("enrolled: %+v, %v", result, err)
	}
	if _, err := n.enrolled(result, key).Commands(t.Context(), 0, 0); err != nil {
		t.Errorf("with the certificate: %v", err)
	}
	m := r.machine(t, "host1")
	if m.Enrolment.Approval != "ca" || m.Enrolment.EKDigest != n.id.Fingerprint().String() || m.Enrolment.Detail == "" {
		t.Errorf("recorded: %+v", m.Enrolment)
	}

	// Another TPM cannot take the name.
	thief := r.newcomer(t, tpmtest.Start(t))
	_, err = thief.client.Enrol(t.Context(), thief.request("host1"))
	wantAPIError(t, "taken name", err, http.StatusConflict, remote.CodeConflict)
	// Nor is a TPM of another maker accepted under a name of its own.
	_, _, _, err = thief.prove(thief.request("host2"))
	wantAPIError(t, "unknown maker", err, http.StatusForbidden, remote.CodeForbidden)
}

func TestEnrolmentByDigestAndOperator(t *testing.T) {
	known, unknown := tpmtest.Start(t), tpmtest.Start(t)
	device, err := tpm.Open(known.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	ek, err := device.EK()
	if err != nil {
		t.Fatal(err)
	}
	id := attest.Identity{EK: ek}
	r := start(t, fmt.Sprintf("listen = \"127.0.0.1:0\"\n[[enrolment.ek]]\ndigest = %q\nlabel = \"rack 4\"\n", id.Fingerprint()))
	n := r.newcomer(t, known)
	_, _, result, err := n.prove(n.request("host1"))
	if err != nil || result.State != remote.EnrolDone {
		t.Fatalf("listed TPM: %+v, %v", result, err)
	}
	if m := r.machine(t, "host1"); m.Enrolment.Approval != "digest" || m.Enrolment.Detail != "rack 4" {
		t.Errorf("recorded: %+v", m.Enrolment)
	}

	n = r.newcomer(t, unknown)
	attempt, secret, result, err := n.prove(n.request("host2"))
	if err != nil || result.State != remote.EnrolWaiting {
		t.Fatalf("unlisted TPM: %+v, %v", result, err)
	}
	items, err := r.client.Reviews(t.Context(), reviewOpen)
	if err != nil || len(items) != 1 || items[0].Kind != reviewEnrolment || items[0].Subject != n.id.Fingerprint().String() {
		t.Fatalf("review: %+v, %v", items, err)
	}
	if _, err := r.client.Decide(t.Context(), items[0].ID, remote.Decision{Accept: true, Reason: "compared at the machine"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the answer may be asked for again
		result, err = n.client.Answer(t.Context(), attempt, secret)
		if err != nil || result.State != remote.EnrolDone {
			t.Fatalf("approved: %+v, %v", result, err)
		}
	}
	if m := r.machine(t, "host2"); m.Enrolment.Approval != "operator" {
		t.Errorf("recorded: %+v", m.Enrolment)
	}
	// The same TPM again asks nobody.
	if _, _, result, err = n.prove(n.request("host2")); err != nil || result.State != remote.EnrolDone {
		t.Errorf("again: %+v, %v", result, err)
	}
}

func TestRefusesEnrolment(t *testing.T) {
	e := tpmtest.Start(t)
	r := start(t, "listen = \"127.0.0.1:0\"\n")
	n := r.newcomer(t, e)
	edit := func(change func(*remote.EnrolRequest)) *remote.EnrolRequest {
		req := n.request("host1")
		change(req)
		return req
	}
	for name, req := range map[string]*remote.EnrolRequest{
		"bad name":       edit(func(q *remote.EnrolRequest) { q.Name = "../host" }),
		"bad role":       edit(func(q *remote.EnrolRequest) { q.Role = "admin" }),
		"no CSR":         edit(func(q *remote.EnrolRequest) { q.CSR = nil }),
		"EK as AK":       edit(func(q *remote.EnrolRequest) { q.AKPublic = q.EKPublic }),
		"AK as EK":       edit(func(q *remote.EnrolRequest) { q.EKPublic = q.AKPublic }),
		"too many certs": edit(func(q *remote.EnrolRequest) { q.EKCertificates = make([][]byte, 9) }),
	} {
		_, err := n.client.Enrol(t.Context(), req)
		wantAPIError(t, name, err, 400, remote.CodeBadRequest)
	}
	challenge, err := n.client.Enrol(t.Context(), n.request("host1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.client.Answer(t.Context(), challenge.ID, make([]byte, 32))
	wantAPIError(t, "wrong secret", err, 403, remote.CodeForbidden)
	_, err = n.client.Answer(t.Context(), "0000", make([]byte, 32))
	wantAPIError(t, "unknown enrolment", err, 404, remote.CodeNotFound)

	_, _, result, err := n.prove(n.request("host1"))
	if err != nil || result.State != remote.EnrolWaiting {
		t.Fatalf("%+v, %v", result, err)
	}
	items, err := r.client.Reviews(t.Context(), reviewOpen)
	if err != nil || len(items) != 1 {
		t.Fatalf("review: %+v, %v", items, err)
	}
	if _, err := r.client.Decide(t.Context(), items[0].ID, remote.Decision{Reason: "not ours"}); err != nil {
		t.Fatal(err)
	}
	if m := r.machine(t, "host1"); m.Enrolment.Serial != "" {
		t.Errorf("a refused machine is enrolled: %+v", m.Enrolment)
	}
}

// Evidence of a boot: asked for, quoted by a TPM, appraised; a replay of it is
// refused and changes nothing.
func TestAttestationByTPM(t *testing.T) {
	e := tpmtest.Start(t)
	r := start(t, fmt.Sprintf("listen = \"127.0.0.1:0\"\n[enrolment]\nca = [%q]\nintermediates = [%q]\n", e.RootFile, e.IntermediateFile))
	n := r.newcomer(t, e)
	key, csr := newRequest(t)
	req := n.request("host1")
	req.CSR = csr
	_, _, result, err := n.prove(req)
	if err != nil {
		t.Fatal(err)
	}
	a := &softAgent{AgentClient: n.enrolled(result, key), t: t, name: "host1", spool: "s"}
	a.send(remote.KindStatus, remote.Status{State: remote.AgentStarted})
	command := a.command(remote.CommandAttest)
	evidence, err := n.device.Collect(n.ak, tpm.CollectOptions{Nonce: command.Nonce[:]})
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := evidence.Encode()
	if err != nil {
		t.Fatal(err)
	}
	body := remote.Attestation{Target: "host1", Nonce: *command.Nonce, Evidence: encoded}
	a.send(remote.KindAttestation, body)
	eventually(t, "the appraisal", func() bool { return r.machine(t, "host1").Boot.ID != "" })
	first := r.machine(t, "host1")
	a.send(remote.KindAttestation, body)
	r.said(t, "host1", "a replay")
	body.Nonce = newNonce()
	a.send(remote.KindAttestation, body)
	r.said(t, "host1", "never gave out")
	if m := r.machine(t, "host1"); m.Boot.ID != first.Boot.ID {
		t.Error("a replay changed what is stored")
	}
}
