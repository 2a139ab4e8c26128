package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
)

// Handles of TCG EK Credential Profile 2.4, 2.2.1.4 and 2.2.1.5 (low range),
// and of TCG TPM 2.0 Provisioning Guidance 1.0, 7.8.
const (
	nvCertificateRSA = 0x01c00002
	nvCertificateECC = 0x01c0000a
	persistentEK     = 0x81010001
)

var (
	// ErrNoCertificate means that the TPM holds no certificate for its EK,
	// as most virtual TPMs do not.
	ErrNoCertificate = errors.New("the TPM holds no endorsement key certificate")
	// ErrActivation means that the TPM could not open a challenge: it was made
	// for another EK, or for an AK that is not in this TPM.
	ErrActivation = errors.New("the challenge is not for this TPM and key")
)

// EK returns the endorsement key's TPMT_PUBLIC: the RSA-2048 key of TCG
// template L-1, or the P-256 key of L-2 when only that one is certified.
func (t *TPM) EK() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ek, err := t.loadEK()
	if err != nil {
		return nil, err
	}
	defer ek.unload()
	return ek.public, nil
}

// EKCertificate returns the certificate of the key that [TPM.EK] returns, in
// DER, or [ErrNoCertificate].
func (t *TPM) EKCertificate() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	cert, _, err := t.certificate()
	return cert, err
}

// Identity is what the machine shows to enrol with ak. A TPM without an EK
// certificate gives an identity without one.
func (t *TPM) Identity(ak *AK) (*attest.Identity, error) {
	public, err := t.EK()
	if err != nil {
		return nil, err
	}
	id := &attest.Identity{EK: public, AK: ak.Public()}
	cert, err := t.EKCertificate()
	switch {
	case err == nil:
		id.EKCertificates = [][]byte{cert}
	case !errors.Is(err, ErrNoCertificate):
		return nil, err
	}
	return id, nil
}

// Activate opens a challenge made for this TPM's EK and ak, and returns the
// secret that proves it. Errors wrap [ErrActivation] when the challenge is for
// something else.
func (t *TPM) Activate(ak *AK, challenge *attest.Challenge) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ek, err := t.loadEK()
	if err != nil {
		return nil, err
	}
	defer ek.unload()
	key, err := t.loadAK(ak)
	if err != nil {
		return nil, err
	}
	defer key.unload()
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: key.handle, Name: key.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle: tpm2.AuthHandle{
			Handle: ek.handle,
			Name:   ek.name,
			Auth:   tpm2.Policy(tpm2.TPMAlgSHA256, 16, t.endorsementPolicy),
		},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret},
	}.Execute(t.conn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrActivation, err)
	}
	return rsp.CertInfo.Buffer, nil
}
