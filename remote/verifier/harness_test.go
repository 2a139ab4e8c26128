package verifier

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/argon2"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
	"github.com/plumbline-sec/plumbline/remote/store/sqlite"
)

// patience bounds every wait of the tests; nothing is measured by it.
const patience = 10 * time.Minute

// running is a verifier that serves on loopback, and its clients.
type running struct {
	*Verifier
	serving Serving
	client  *remote.Client
	state   string

	mu     sync.Mutex
	nonces []remote.Nonce // that went to BMCs
	bmcErr error
}

// twoMachines is a host and the target that it measures.
const twoMachines = `
listen = "127.0.0.1:0"
[[host]]
name = "host1"
[[host]]
name = "vm1"
measured_by = "host1"
scan_every = "10000h"
scan_timeout = "10m"
bmc = { address = "192.0.2.1", username = "operator", password = "x" }
`

// start runs a verifier with a configuration until the test ends.
func start(t *testing.T, config string) *running {
	t.Helper()
	t.Parallel()
	return startIn(t, t.TempDir(), config)
}

// startPausing is start of one with a least pause between rescans for the sake of logs,
// which others do not have.
func startPausing(t *testing.T, config string, pause time.Duration) *running {
	t.Helper()
	t.Parallel()
	return startIn(t, t.TempDir(), config, func(v *Verifier) { v.rotationPause = pause })
}

// prepared reads a configuration and opens the store in a state directory.
func prepared(t *testing.T, state, config string) (*Config, *sqlite.Store) {
	t.Helper()
	parsed, err := ParseConfig([]byte(config), state)
	if err != nil {
		t.Fatal(err)
	}
	writePassword(t, state)
	db, err := sqlite.Open(filepath.Join(state, "verifier.db"))
	if err != nil {
		t.Fatal(err)
	}
	return parsed, db
}

func startIn(t *testing.T, state, config string, prepare ...func(*Verifier)) *running {
	t.Helper()
	parsed, db := prepared(t, state, config)
	var err error
	r := &running{state: state}
	r.Verifier, err = New(Options{Config: parsed, Store: db, State: state, Trigger: r.ring})
	if err != nil {
		t.Fatal(err)
	}
	r.judge = judgeByName
	r.firstScan = 10000 * time.Hour // or the schedule would fire one in the midst of a test's own
	r.rotationPause = 0
	for _, p := range prepare {
		p(r.Verifier)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan Serving, 1)
	go func() { ended <- r.Serve(ctx, func(s Serving) { ready <- s }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		db.Close()
	})
	select {
	case r.serving = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("Serve: %v", err)
	}
	r.client, err = remote.NewClient(remote.ClientOptions{Address: r.serving.Address, Trust: r.trust(t), Token: r.token(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// password of every verifier here, under a hash that costs nothing to check.
const password = "correct horse"

func writePassword(t *testing.T, state string) {
	t.Helper()
	salt := []byte("0123456789abcdef")
	key := argon2.IDKey([]byte(password), salt, 1, 8, 1, 32)
	hash := fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
	if err := os.WriteFile(filepath.Join(state, passwordHashFile), []byte(hash), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *running) trust(t *testing.T) remote.Trust {
	t.Helper()
	ca, err := os.ReadFile(r.serving.CA)
	if err != nil {
		t.Fatal(err)
	}
	return remote.Trust{CA: ca}
}

func (r *running) token(t *testing.T) string {
	t.Helper()
	token, err := firstLine(r.serving.Token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ring is the BMC of every machine: it remembers the nonce.
func (r *running) ring(_ context.Context, _ BMC, _ string, nonce remote.Nonce) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bmcErr != nil {
		return r.bmcErr
	}
	r.nonces = append(r.nonces, nonce)
	return nil
}

// rung waits for the nth nonce, counted from 1.
func (r *running) rung(t *testing.T, n int) remote.Nonce {
	t.Helper()
	var nonce remote.Nonce
	eventually(t, "a nonce at the BMC", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.nonces) < n {
			return false
		}
		nonce = r.nonces[n-1]
		return true
	})
	return nonce
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (r *running) machine(t *testing.T, name string) *remote.MachineDetail {
	t.Helper()
	m, err := r.client.Machine(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// said waits for a line on the timeline of a machine that contains text.
func (r *running) said(t *testing.T, machine, text string) remote.Moment {
	t.Helper()
	var found remote.Moment
	eventually(t, "the line "+text, func() bool {
		moments, err := r.Timeline(t.Context(), machine, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range moments {
			if containsFold(m.Text, text) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// judgeByName stands for measure/check, which has tests of its own: an
// observation named after an outcome has that outcome, one named "pages" needs
// the page in its data.
func judgeByName(obs *measure.Observations, refs *check.References) (*measure.Report, error) {
	report := &measure.Report{Target: obs.Target, TakenAt: obs.TakenAt}
	for _, item := range obs.Items {
		c := measure.Check{Name: item.Check, Outcome: measure.Outcome(item.Check)}
		switch item.Check {
		case "fail":
			c.Findings = []measure.Finding{{Symbol: "do_idt+0x4", Observed: "cc", Expected: "90", Explanation: "a byte of text was changed"}}
		case "pages":
			var digest check.Digest
			if err := json.Unmarshal(item.Data, &digest); err != nil {
				return nil, err
			}
			if !refs.Accepted.Accepted(check.PageKey(digest)) {
				if _, ok := refs.Pages.Page(digest); !ok {
					return nil, &check.MissingPagesError{Digests: []check.Digest{digest}}
				}
				refs.Accepted.Accept(check.PageKey(digest))
			}
			c.Outcome = measure.Pass
		}
		report.Checks = append(report.Checks, c)
	}
	report.Decide()
	return report, nil
}

// softAgent is an enrolled agent whose attestation key is in software: what a
// TPM does is tested with a TPM in enrol_lab_test.go.
type softAgent struct {
	*remote.AgentClient
	t     *testing.T
	name  string
	ak    *ecdsa.PrivateKey
	pub   []byte
	reset uint32
	spool string
	seq   uint64
	after uint64 // the last command carried out

	certificate *tls.Certificate
}

// enrol makes an agent of a machine as if it had enrolled.
func (r *running) enrol(t *testing.T, name string, role remote.Role) *softAgent {
	t.Helper()
	key, csr := newRequest(t)
	cert, err := r.authority.agentCertificate(name, csr)
	if err != nil {
		t.Fatal(err)
	}
	a := &softAgent{t: t, name: name, spool: "spool1", reset: 1}
	if a.ak, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.pub = publicArea(a.ak)
	err = r.changeMachine(t.Context(), name, nil, func(m *machine) ([]store.Change, error) {
		m.Role, m.AKPublic, m.EKPublic = role, a.pub, []byte("ek of "+name)
		m.Enrolment = remote.Enrolment{Approval: "operator", Serial: serial(cert), At: r.now()}
		r.refresh(m)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.certificate = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	a.AgentClient, err = remote.NewAgentClient(remote.AgentOptions{Address: r.serving.Address, Trust: r.trust(t), Certificate: a.certificate})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// publicArea is the TPMT_PUBLIC of an attestation key.
func publicArea(key *ecdsa.PrivateKey) []byte {
	point, err := key.PublicKey.Bytes() // 0x04, X, Y
	if err != nil {
		panic(err)
	}
	return tpm2.Marshal(&tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:65]}}),
	})
}

// quote signs qualifying as a TPM would.
func (a *softAgent) quote(qualifying []byte) (quote, signature []byte) {
	a.t.Helper()
	quote = tpm2.Marshal(&tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		ExtraData: tpm2.TPM2BData{Buffer: qualifying},
		ClockInfo: tpm2.TPMSClockInfo{ResetCount: a.reset, Safe: true},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0, 0, 0}}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		}),
	})
	sum := sha256.Sum256(quote)
	r, s, err := ecdsa.Sign(rand.Reader, a.ak, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	signature = tpm2.Marshal(&tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()}})})
	return quote, signature
}

// send delivers one record of a kind.
func (a *softAgent) send(kind remote.Kind, body any) *remote.RecordsReply {
	a.t.Helper()
	a.seq++
	reply, err := a.Send(a.t.Context(), a.spool, []remote.Record{a.record(a.seq, kind, body)})
	if err != nil {
		a.t.Fatalf("send %s: %v", kind, err)
	}
	if reply.Acked != a.seq {
		a.t.Fatalf("record %d was sent, %d acknowledged", a.seq, reply.Acked)
	}
	return reply
}

func (a *softAgent) record(seq uint64, kind remote.Kind, body any) remote.Record {
	data, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	return remote.Record{Seq: seq, Kind: kind, Time: time.Now(), Body: data}
}

// scan is the report of a scan that saw the given items.
func (a *softAgent) scan(target string, nonce remote.Nonce, items ...measure.Observation) *remote.Scan {
	a.t.Helper()
	obs := &measure.Observations{Target: measure.Target{Kind: "vm", Name: target}, Nonce: nonce[:], TakenAt: time.Now(), Items: items}
	encoded, err := obs.Encode()
	if err != nil {
		a.t.Fatal(err)
	}
	bound := measure.Bind(nonce[:], encoded)
	quote, signature := a.quote(bound[:])
	return &remote.Scan{Target: target, Nonce: nonce, Observations: encoded, Quote: quote, Signature: signature, AKPublic: a.pub}
}

func item(name string) measure.Observation {
	return measure.Observation{Check: name, Data: json.RawMessage(`{}`)}
}

// command waits for a command of a kind and acknowledges everything before it.
func (a *softAgent) command(kind remote.CommandKind) remote.Command {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	for {
		commands, err := a.Commands(ctx, a.after, 10*time.Second)
		if err != nil {
			a.t.Fatalf("wait for command %s: %v", kind, err)
		}
		for _, c := range commands {
			if a.after = c.ID; c.Kind == kind {
				return c
			}
		}
	}
}

func wantAPIError(t *testing.T, what string, err error, status int, code string) {
	t.Helper()
	var known *remote.Error
	if !errors.As(err, &known) || known.Status != status || known.Code != code {
		t.Errorf("%s: %v, want status %d, code %s", what, err, status, code)
	}
}
