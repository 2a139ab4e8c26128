package verifier

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/plumbline-sec/plumbline/remote"
)

// An agent that begins many requests and lets none of them come to its end takes
// a bounded amount of memory, and nobody else is kept waiting.
func TestBulkOfOneAgentIsBounded(t *testing.T) {
	r := start(t, twoMachines)
	hostile, honest := r.enrol(t, "vm1", remote.RoleGuest), r.enrol(t, "host1", remote.RoleHost)
	ask := func(a *softAgent, path string, body io.Reader) int {
		cert, err := x509.ParseCertificate(a.certificate.Certificate[0])
		if err != nil {
			t.Error(err)
			return 0
		}
		req := httptest.NewRequestWithContext(t.Context(), "POST", path, body)
		req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		answer := httptest.NewRecorder()
		r.Handler().ServeHTTP(answer, req)
		return answer.Code
	}
	under := func() int {
		r.bulk.mu.Lock()
		defer r.bulk.mu.Unlock()
		return r.bulk.count["vm1"]
	}
	var waiting sync.WaitGroup
	var ends []*io.PipeWriter
	for i := range maxBulk {
		body, end := io.Pipe()
		ends = append(ends, end)
		waiting.Go(func() { ask(hostile, []string{"/v1/agent/bodies", "/v1/agent/records"}[i%2], body) })
	}
	eventually(t, "the requests to be under way", func() bool { return under() == maxBulk })
	for _, path := range []string{"/v1/agent/bodies", "/v1/agent/records"} {
		if code := ask(hostile, path, strings.NewReader("")); code != http.StatusServiceUnavailable {
			t.Errorf("one more %s: %d", path, code)
		}
	}
	if code := ask(honest, "/v1/agent/bodies", strings.NewReader("")); code != http.StatusNoContent {
		t.Errorf("another agent: %d", code)
	}
	for _, end := range ends {
		end.Close()
	}
	waiting.Wait()
	if code := ask(hostile, "/v1/agent/bodies", strings.NewReader("")); code != http.StatusNoContent || under() != 0 {
		t.Errorf("when they have ended: %d, %d under way", code, under())
	}
}
