package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
)

// ErrRefused: the verifier will not have this machine.
var ErrRefused = errors.New("the verifier refused the enrolment")

// retiredMessage is what an agent logs whose machine was retired: that its evidence stays
// where it is has another cause than that the verifier does not know it.
const retiredMessage = "this machine was retired at the verifier, which takes nothing from it any more"

// retiredPause is how long such an agent waits before it asks again: nothing becomes
// otherwise while it runs with the certificate that it has.
const retiredPause = time.Hour

// refusedAsRetired says that a verifier refused a machine because it was retired.
func refusedAsRetired(err error) bool {
	var known *remote.Error
	return errors.As(err, &known) && known.Code == remote.CodeRetired
}

// credentials are the agent's TLS key and the certificate that the verifier gave
// it after the TPM had proven itself.
type credentials struct {
	keyFile, certFile, caFile string
}

func credentialsIn(state string) credentials {
	return credentials{
		keyFile:  filepath.Join(state, "agent.key"),
		certFile: filepath.Join(state, "agent.crt"),
		caFile:   filepath.Join(state, "verifier-ca.pem"),
	}
}

// load returns the certificate of a finished enrolment; os.ErrNotExist if there
// was none.
func (c credentials) load() (*tls.Certificate, error) {
	if _, err := os.Stat(c.certFile); err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read agent certificate: %w", err)
	}
	return &cert, nil
}

// key reads the TLS key or makes one. It is made once, so that an enrolment that
// waits for an operator goes on with the same key after a restart.
func (c credentials) key() (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(c.keyFile)
	if errors.Is(err, os.ErrNotExist) {
		return c.newKey()
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", c.keyFile)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.keyFile, err)
	}
	return key, nil
}

func (c credentials) newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return key, durable.WriteFile(c.keyFile, block, 0o600)
}

// enrolment is one attempt to be known to the verifier.
type enrolment struct {
	config *Config
	device *tpm.TPM
	ak     *tpm.AK
	files  credentials
	client *remote.AgentClient
	log    func(message string, args ...any)
	// poll is how long to wait before asking again whether an operator has
	// decided; zero means 15 s.
	poll time.Duration
}

// run proves the TPM to the verifier and stores the certificate it gets.
func (e *enrolment) run(ctx context.Context) (*tls.Certificate, error) {
	request, err := e.request()
	if err != nil {
		return nil, err
	}
	challenge, err := e.client.Enrol(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	secret, err := e.device.Activate(e.ak, &attest.Challenge{
		Credential: challenge.CredentialBlob,
		Secret:     challenge.EncryptedSecret,
	})
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	result, err := e.answer(ctx, challenge.ID, secret)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(e.files.caFile, result.CA, 0o644); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(e.files.certFile, result.Certificate, 0o644); err != nil {
		return nil, err
	}
	return e.files.load()
}

func (e *enrolment) request() (*remote.EnrolRequest, error) {
	identity, err := e.device.Identity(e.ak)
	if err != nil {
		return nil, fmt.Errorf("read TPM identity: %w", err)
	}
	key, err := e.files.key()
	if err != nil {
		return nil, fmt.Errorf("agent key: %w", err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: e.config.Name}}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return &remote.EnrolRequest{
		Name: e.config.Name, Role: e.config.Role, CSR: csr,
		EKCertificates: identity.EKCertificates, EKPublic: identity.EK, AKPublic: identity.AK,
	}, nil
}

// answer sends the secret until the verifier has decided.
func (e *enrolment) answer(ctx context.Context, id string, secret []byte) (*remote.EnrolResult, error) {
	poll := e.poll
	if poll == 0 {
		poll = 15 * time.Second
	}
	for told := false; ; {
		result, err := e.client.Answer(ctx, id, secret)
		if err != nil {
			return nil, fmt.Errorf("enrol: %w", err)
		}
		switch result.State {
		case remote.EnrolDone:
			return result, nil
		case remote.EnrolWaiting:
			if !told {
				e.log("enrolment waits for an operator's approval", "reason", result.Reason)
				told = true
			}
		default:
			return nil, fmt.Errorf("%w: %s", ErrRefused, result.Reason)
		}
		if err := sleep(ctx, poll); err != nil {
			return nil, err
		}
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
