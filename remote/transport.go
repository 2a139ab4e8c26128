package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxReply bounds what a client reads of one answer.
const maxReply = 64 << 20

// ErrFingerprint is returned when no certificate has the expected fingerprint.
var ErrFingerprint = errors.New("the verifier's authority has another fingerprint")

// Fingerprint is the SHA-256 of a certificate in DER, as hexadecimal digits:
// what the verifier prints when it starts and what an agent is given.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ParseCertificates reads every certificate of a PEM file.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return certs, nil
}

// Trust says how a client knows the verifier. One of the two is required.
type Trust struct {
	CA          []byte // PEM of the verifier's authority
	Fingerprint string // of the authority's certificate, for the first contact of an agent
}

// config builds the TLS side for a verifier called host. With only a fingerprint the server's chain must
// hold the authority with that fingerprint and verify under it.
func (t Trust) config(host string, certificate *tls.Certificate) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if certificate != nil {
		cfg.Certificates = []tls.Certificate{*certificate}
	}
	switch {
	case len(t.CA) > 0:
		certs, err := ParseCertificates(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read verifier authority: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			cfg.RootCAs.AddCert(c)
		}
	case t.Fingerprint != "":
		want := strings.ToLower(strings.ReplaceAll(t.Fingerprint, ":", ""))
		// The chain is verified in VerifyConnection, under the pinned
		// authority, with the server's name.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(state tls.ConnectionState) error { return verifyPinned(state, host, want) }
	default:
		return nil, errors.New("the verifier's authority is not known: give its certificate or its fingerprint")
	}
	return cfg, nil
}

func verifyPinned(state tls.ConnectionState, host, want string) error {
	for _, cert := range state.PeerCertificates[1:] {
		if Fingerprint(cert.Raw) != want {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots})
		return err
	}
	return ErrFingerprint
}

// caller makes JSON requests to one verifier.
type caller struct {
	base  *url.URL
	http  *http.Client
	token string
}

func newCaller(address string, trust Trust, certificate *tls.Certificate) (*caller, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("verifier address %q: want https://HOST:PORT", address)
	}
	tlsConfig, err := trust.config(base.Hostname(), certificate)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 4,
		ForceAttemptHTTP2:   true,
	}
	return &caller{base: base, http: &http.Client{Transport: transport}}, nil
}

// json sends in as JSON (nil: no body) and decodes the answer into out (nil:
// ignored). Nothing is retried: who calls knows whether that is safe.
func (c *caller) json(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	resp, err := c.do(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return fmt.Errorf("decode answer to %s %s: %w", method, path, err)
	}
	return nil
}

// do makes one request; the caller closes the body of an answer below 400.
func (c *caller) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	target, err := c.base.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("request path %q: %w", path, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask verifier: %w", err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	var reply ErrorReply
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(data, &reply) != nil || reply.Error.Message == "" {
		return nil, errorf(resp.StatusCode, "%s %s: the verifier answered %s", method, path, resp.Status)
	}
	reply.Error.Status = resp.StatusCode
	return nil, &reply.Error
}
