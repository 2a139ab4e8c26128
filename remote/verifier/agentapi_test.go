package verifier

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

func status(state remote.AgentState) remote.Status { return remote.Status{State: state} }

func TestRecordsAreAcknowledgedOnce(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	batch := []remote.Record{a.record(1, remote.KindStatus, status(remote.AgentRunning)), a.record(2, remote.KindStatus, status(remote.AgentRunning))}
	for range 2 { // the answer may have been lost
		reply, err := a.Send(t.Context(), "s", batch)
		if err != nil || reply.Acked != 2 {
			t.Fatalf("Send = %+v, %v", reply, err)
		}
	}
	eventually(t, "the records to be worked off", func() bool {
		pending, err := r.store.Pending(t.Context(), 10, remote.KindStatus)
		return err == nil && len(pending) == 0
	})
}

func TestRefusesBadRecords(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	running := status(remote.AgentRunning)
	early := a.record(1, remote.KindStatus, running)
	early.Time = time.Time{}
	huge := a.record(1, remote.KindStatus, remote.Status{State: remote.AgentRunning, Detail: strings.Repeat("x", remote.MaxRecordBytes)})
	for _, test := range []struct {
		name    string
		spool   string
		records []remote.Record
		status  int
		code    string
	}{
		{"falling numbers", "s", []remote.Record{a.record(2, remote.KindStatus, running), a.record(1, remote.KindStatus, running)}, 409, remote.CodeSequence},
		{"number 0", "s", []remote.Record{a.record(0, remote.KindStatus, running)}, 409, remote.CodeSequence},
		{"number out of range", "s", []remote.Record{a.record(1<<63, remote.KindStatus, running)}, 400, remote.CodeBadRequest},
		{"unknown kind", "s", []remote.Record{a.record(1, "gossip", running)}, 400, remote.CodeBadRequest},
		{"no time", "s", []remote.Record{early}, 400, remote.CodeBadRequest},
		{"no spool", "", []remote.Record{a.record(1, remote.KindStatus, running)}, 400, remote.CodeBadRequest},
		{"too many", "s", make([]remote.Record, remote.MaxRecords+1), 413, remote.CodeTooLarge},
		{"too large a record", "s", []remote.Record{huge}, 413, remote.CodeTooLarge},
	} {
		_, err := a.Send(t.Context(), test.spool, test.records)
		wantAPIError(t, test.name, err, test.status, test.code)
	}
	if reply, err := a.Send(t.Context(), "s", nil); err != nil || reply.Acked != 0 {
		t.Errorf("after refusals: %+v, %v", reply, err)
	}
}

func TestRefusesOversizedRequest(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	part := strings.Repeat("x", remote.MaxRecordBytes-1024)
	var records []remote.Record
	for i := range uint64(3) {
		records = append(records, a.record(i+1, remote.KindStatus, remote.Status{State: remote.AgentRunning, Detail: part}))
	}
	_, err := a.Send(t.Context(), "s", records)
	wantAPIError(t, "48 MiB of records", err, 413, remote.CodeTooLarge)
}

func TestLostRecordsAreTold(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	a.send(remote.KindStatus, status(remote.AgentRunning))
	a.seq += 3
	a.send(remote.KindStatus, status(remote.AgentRunning))
	if m := r.said(t, "host1", "records 2 to 4 of the agent on host1 never arrived"); m.Severity != remote.SeverityAlert {
		t.Errorf("told as %s", m.Severity)
	}
	w := newWatch(t, a, "vm1")
	var err error
	if w.rules, err = filewatch.ParseRules([]byte("[[rule]]\npath = \"/etc/**\"\nlevel = \"verify\"\n")); err != nil {
		t.Fatal(err)
	}
	w.capture(0, file("/etc/passwd", 1, "root\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	a.seq++
	a.send(remote.KindStatus, status(remote.AgentRunning))
	if c := a.command(remote.CommandRescan); c.Target != "vm1" || !containsFold(c.Reason, "lost") {
		t.Errorf("command %+v", c)
	}
	forged := a.record(1, remote.KindStatus, remote.Status{State: remote.AgentRunning, Detail: "another past"})
	if _, err := a.Send(t.Context(), a.spool, []remote.Record{forged}); err != nil {
		t.Fatal(err)
	}
	r.said(t, "host1", "record 1 again with another content")
	a.spool, a.seq = "spool2", 0
	a.send(remote.KindStatus, status(remote.AgentRunning))
	r.said(t, "host1", "began a new spool")
}

// hangsUp is a store whose caller's client is gone once records are stored.
type hangsUp struct {
	store.Store
	gone context.CancelFunc
}

func (h hangsUp) Append(ctx context.Context, s store.Stream, at time.Time, records []remote.Record) (store.Receipt, error) {
	receipt, err := h.Store.Append(ctx, s, at, records)
	h.gone()
	return receipt, err
}

// An agent that leaves out a record and hangs up before the answer must not keep
// the loss from being told: what is stored is not looked at again.
func TestLossIsToldToNobodyWhoWaits(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	config, db := prepared(t, state, twoMachines)
	defer db.Close()
	var err error
	ctx, gone := context.WithCancel(t.Context())
	defer gone()
	r := &running{state: state}
	if r.Verifier, err = New(Options{Config: config, Store: hangsUp{db, gone}, State: state}); err != nil {
		t.Fatal(err)
	}
	r.serving = Serving{Address: "https://127.0.0.1:1", CA: filepath.Join(state, "ca.pem")}
	a := r.enrol(t, "host1", remote.RoleHost)
	cert, err := x509.ParseCertificate(a.certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(remote.RecordsRequest{Spool: "s", Records: []remote.Record{a.record(7, remote.KindStatus, status(remote.AgentRunning))}})
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(ctx, "POST", "/v1/agent/records", bytes.NewReader(body))
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	r.Handler().ServeHTTP(httptest.NewRecorder(), req)
	if ctx.Err() == nil {
		t.Fatal("the records were not stored")
	}
	moments, err := r.Timeline(t.Context(), "host1", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range moments {
		if strings.Contains(m.Text, "records 1 to 6 of the agent on host1 never arrived") {
			return
		}
	}
	t.Errorf("the loss is not told: %+v", moments)
}

// A record that makes no sense is told and does not stop those behind it.
func TestBadRecordDoesNotBlock(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	a.send(remote.KindStatus, []int{1})
	a.send(remote.KindEvent, map[string]any{"target": "../../etc"})
	a.send(remote.KindEvent, map[string]any{"target": "vm1", "stream": "s", "sequence": 1, "event": "no event"})
	a.send(remote.KindAttestation, map[string]any{"target": "host1", "evidence": map[string]any{"version": 99}})
	a.send(remote.KindBaseline, map[string]any{"target": "vm1", "manifest": "zz"})
	a.send(remote.KindStatus, remote.Status{State: "dancing"})
	a.send(remote.KindStatus, remote.Status{State: remote.AgentStopping})
	r.said(t, "host1", "the agent on host1 stops")
	r.said(t, "host1", "unknown evidence version")
	r.said(t, "host1", `unknown state "dancing"`)
	r.said(t, "vm1", "a file event of vm1 was refused")
	if m := r.machine(t, "vm1"); m.Files.Events != 0 {
		t.Errorf("%d events were taken", m.Files.Events)
	}
}

// A guest speaks for itself alone, a host for what it measures.
func TestAgentsReportAboutTheirOwn(t *testing.T) {
	r := start(t, twoMachines)
	guest := r.enrol(t, "vm1", remote.RoleGuest)
	guest.send(remote.KindStatus, remote.Status{State: remote.TargetOff, Target: "host1"})
	r.said(t, "vm1", "not its own to measure")
	stranger := r.enrol(t, "host2", remote.RoleHost)
	stranger.send(remote.KindStatus, remote.Status{State: remote.TargetOff, Target: "vm1"})
	r.said(t, "host2", "not its own to measure")
	if m := r.machine(t, "vm1"); m.State == remote.StateStale {
		t.Error("a stranger switched vm1 off")
	}
	// Nobody configured vm9: the first host that reports about it has it.
	stranger.send(remote.KindStatus, remote.Status{State: remote.TargetRunning, Target: "vm9"})
	r.said(t, "vm9", "host2 reports about vm9 from now on")
	host := r.enrol(t, "host1", remote.RoleHost)
	host.send(remote.KindStatus, remote.Status{State: remote.TargetOff, Target: "vm9"})
	r.said(t, "host1", "not its own to measure")
}

func TestBodies(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	for range 2 {
		digest, err := a.PutBody(t.Context(), []byte("body"))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := r.store.Body(t.Context(), digest); err != nil || string(body) != "body" {
			t.Errorf("stored %q, %v", body, err)
		}
	}
	if err := a.PutBodies(t.Context(), [][]byte{[]byte("one"), {}, []byte("two")}); err != nil {
		t.Fatal(err)
	}
	if missing, err := r.store.Missing(t.Context(), []remote.Digest{remote.DigestOf([]byte("one")), remote.DigestOf(nil)}); err != nil || len(missing) > 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
	if _, err := a.PutBody(t.Context(), make([]byte, remote.MaxBodyBytes+1)); err == nil {
		t.Error("a body past the limit was taken")
	}
}

// raw makes a request as no client of ours would.
func (r *running) raw(t *testing.T, method, path, body string, cert *tls.Certificate) (int, remote.Error) {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(r.authority.cert)
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, r.serving.Address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply remote.ErrorReply
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&reply); err != nil {
		t.Fatalf("%s %s answered %d %q", method, path, resp.StatusCode, data)
	}
	return resp.StatusCode, reply.Error
}

// Only a certificate of this authority, issued to an agent and still its own,
// opens the agents' part of the API; each refusal says why.
func TestRefusesUnknownClientCertificates(t *testing.T) {
	r := start(t, twoMachines)
	old := r.enrol(t, "host1", remote.RoleHost)
	r.enrol(t, "host1", remote.RoleHost) // again: the first certificate is replaced
	_, err := old.Commands(t.Context(), 0, 0)
	wantAPIError(t, "replaced certificate", err, 401, remote.CodeUnauth)

	server, err := r.authority.serverCertificate([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cert *tls.Certificate
		says string
	}{
		"none":                       {nil, "no client certificate"},
		"self-signed with our names": {selfSigned(t), "not from this verifier"},
		"our own server certificate": {&server, "not from this verifier"},
	} {
		for _, path := range []string{"GET /v1/agent/commands", "POST /v1/agent/records", "POST /v1/agent/bodies", "PUT /v1/agent/bodies/00"} {
			method, path, _ := strings.Cut(path, " ")
			status, reply := r.raw(t, method, path, "{}", test.cert)
			if status != 401 || !containsFold(reply.Message, test.says) {
				t.Errorf("%s, %s %s: %d %q", name, method, path, status, reply.Message)
			}
		}
	}
}

// selfSigned pretends to be host1 under an authority of the same name.
func selfSigned(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "host1"}, Issuer: pkix.Name{CommonName: "Plumbline verifier authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A heartbeat and a start: the verifier asks a started agent to attest, once
// per start, and forgets a command that was carried out.
func TestStartedAgentIsAskedToAttest(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	a.send(remote.KindStatus, remote.Status{State: remote.AgentStarted, BootID: "b1", Version: "1.0"})
	c := a.command(remote.CommandAttest)
	if c.Nonce == nil || c.Target != "host1" {
		t.Fatalf("command %+v", c)
	}
	again, err := a.Commands(t.Context(), 0, 0)
	if err != nil || len(again) != 1 {
		t.Errorf("before it was acknowledged: %+v, %v", again, err)
	}
	rest, err := a.Commands(t.Context(), c.ID, 0)
	if err != nil || len(rest) != 0 {
		t.Errorf("after it was acknowledged: %+v, %v", rest, err)
	}
	a.send(remote.KindStatus, remote.Status{State: remote.AgentStarted, BootID: "b2"})
	r.said(t, "host1", "after a restart of the machine")
}

func TestPoweredOffIsStale(t *testing.T) {
	r := start(t, twoMachines)
	a := r.enrol(t, "host1", remote.RoleHost)
	for _, test := range []struct {
		says  remote.AgentState
		state remote.State
	}{
		{remote.TargetRebooting, remote.StateRebooting},
		{remote.TargetRunning, remote.StateUnknown},
		{remote.TargetOff, remote.StateUnknown}, // never scanned outweighs being off
	} {
		a.send(remote.KindStatus, remote.Status{State: test.says, Target: "vm1"})
		eventually(t, "state "+string(test.state), func() bool { return r.machine(t, "vm1").State == test.state })
	}
}
