package remote

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// authority makes a CA and a server certificate for 127.0.0.1 under it.
func authority(t *testing.T) (ca *x509.Certificate, server tls.Certificate) {
	t.Helper()
	caKey := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca = issue(t, template, template, caKey, caKey)
	key := newKey(t)
	leaf := issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, ca, key, caKey)
	return ca, tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t *testing.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func serve(t *testing.T, cert tls.Certificate, handler http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return "https://localhost:" + srv.URL[len("https://127.0.0.1:"):]
}

func TestClientKnowsTheVerifierByItsAuthority(t *testing.T) {
	ca, cert := authority(t)
	other, _ := authority(t)
	address := serve(t, cert, func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"hosts": []Machine{{Name: "vm1"}}})
	})
	pemOf := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	for _, test := range []struct {
		name  string
		trust Trust
		ok    bool
	}{
		{"authority", Trust{CA: pemOf(ca)}, true},
		{"fingerprint", Trust{Fingerprint: Fingerprint(ca.Raw)}, true},
		{"another authority", Trust{CA: pemOf(other)}, false},
		{"another fingerprint", Trust{Fingerprint: Fingerprint(other.Raw)}, false},
		// The leaf's own fingerprint is not the authority's.
		{"fingerprint of the leaf", Trust{Fingerprint: Fingerprint(cert.Certificate[0])}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := NewClient(ClientOptions{Address: address, Trust: test.trust})
			if err != nil {
				t.Fatal(err)
			}
			machines, err := client.Machines(t.Context())
			if (err == nil) != test.ok {
				t.Fatalf("Machines: %v, want ok %t", err, test.ok)
			}
			if test.ok && (len(machines) != 1 || machines[0].Name != "vm1") {
				t.Errorf("Machines = %+v", machines)
			}
		})
	}
	if _, err := NewClient(ClientOptions{Address: address}); err == nil {
		t.Error("a client without any trust was made")
	}
}

func TestErrorsCarryTheVerifiersWords(t *testing.T) {
	ca, cert := authority(t)
	address := serve(t, cert, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/hosts" {
			http.Error(w, "<html>proxy says no</html>", http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(ErrorReply{Error{Code: CodeNotFound, Message: "no machine vm9", Hint: "see plumbline hosts"}})
	})
	client, err := NewClient(ClientOptions{Address: address, Trust: Trust{Fingerprint: Fingerprint(ca.Raw)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Machine(t.Context(), "vm9")
	var known *Error
	if !errors.As(err, &known) || known.Status != 404 || known.Code != CodeNotFound || known.Hint != "see plumbline hosts" {
		t.Errorf("Machine: %#v, want the verifier's error", err)
	}
	if _, err = client.Machines(t.Context()); !errors.As(err, &known) || known.Status != http.StatusBadGateway {
		t.Errorf("Machines: %#v, want an Error with status 502", err)
	}
}
