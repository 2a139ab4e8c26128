package attest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

var (
	// ErrEK means that an endorsement key or its certificate is not acceptable.
	ErrEK = errors.New("endorsement key not accepted")
	// ErrEKUntrusted means that no configured CA vouches for the certificate.
	ErrEKUntrusted = errors.New("endorsement key certificate is not from a trusted CA")
)

// Identity is what a machine shows of its TPM when it enrols.
type Identity struct {
	// EKCertificates is the endorsement key's certificate (DER) followed by
	// whatever intermediates the TPM or its maker supplies; empty on the many
	// virtual TPMs that have none.
	EKCertificates [][]byte `json:"ek_certificates,omitempty"`
	EK             Hex      `json:"ek"` // TPMT_PUBLIC
	AK             Hex      `json:"ak"` // TPMT_PUBLIC
}

// Challenge is a credential that only the TPM holding both the EK and the AK
// can open (TPM 2.0 Library, Part 1, 24 "Credential Protection").
type Challenge struct {
	Credential Hex `json:"credential"` // contents of a TPM2B_ID_OBJECT
	Secret     Hex `json:"secret"`     // contents of a TPM2B_ENCRYPTED_SECRET
}

// Fingerprint is the SHA-256 of an EK's TPMT_PUBLIC: what a list of
// known EKs holds where there is no certificate.
func (id *Identity) Fingerprint() Hex {
	sum := sha256.Sum256(id.EK)
	return sum[:]
}

// KeyDigest is the SHA-256 of the EK's SubjectPublicKeyInfo. Unlike the Fingerprint it is
// that of the key alone: what else a public area says, such as its policy, takes no part
// in a challenge (TPM 2.0 part 1, 24), so that one TPM opens those for many public areas.
// Errors wrap [ErrEK].
func (id *Identity) KeyDigest() (Hex, error) {
	pub, err := checkEK(id.EK)
	if err != nil {
		return nil, err
	}
	key, err := tpm2.Pub(*pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEK, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEK, err)
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// VerifyEK checks that the leaf of id.EKCertificates chains to roots (further
// certificates of the list and intermediates may help), that it is an EK
// certificate, and that the EK shown is the certified one. Errors wrap [ErrEK]
// or [ErrEKUntrusted]. nil intermediates are none; nil roots trust nothing.
func VerifyEK(id *Identity, intermediates, roots *x509.CertPool) (*x509.Certificate, error) {
	if len(id.EKCertificates) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrEK)
	}
	leaf, err := ParseEKCertificate(id.EKCertificates[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if intermediates != nil {
		pool = intermediates.Clone()
	}
	for _, der := range id.EKCertificates[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if err := CheckKeySize(cert.PublicKey); err != nil {
			return nil, fmt.Errorf("%w: certificate of %s: %w", ErrEK, cert.Subject, err)
		}
		pool.AddCert(cert)
	}
	if err := verifyChain(leaf, pool, roots); err != nil {
		return nil, err
	}
	return leaf, matchEK(leaf, id.EK)
}

// maxRSABits is the bound that crypto/tls has for keys of strangers too.
const maxRSABits = 8192

// CheckKeySize refuses an RSA key by which a stranger could keep a processor
// busy: the time that one signature takes to verify grows with the square of the
// key's size, and is more than a minute where the key fills 100 KiB.
func CheckKeySize(key crypto.PublicKey) error {
	if k, ok := key.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits, at most %d", k.N.BitLen(), maxRSABits)
	}
	return nil
}

// Object identifiers of TCG EK Credential Profile 2.4, 3.2 and of RFC 5280.
var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// ParseEKCertificate reads an EK certificate in DER; TPMs often pad the NV
// index it lives in, and the padding is dropped. Errors wrap [ErrEK].
func ParseEKCertificate(der []byte) (*x509.Certificate, error) {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(der, &raw)
	if err != nil {
		return nil, fmt.Errorf("%w: read certificate: %w", ErrEK, err)
	}
	cert, err := x509.ParseCertificate(der[:len(der)-len(rest)])
	if err != nil {
		return nil, fmt.Errorf("%w: read certificate: %w", ErrEK, err)
	}
	return cert, nil
}

func verifyChain(leaf *x509.Certificate, intermediates, roots *x509.CertPool) error {
	if roots == nil {
		return fmt.Errorf("%w: no trusted CA is configured", ErrEKUntrusted)
	}
	if leaf.IsCA {
		return fmt.Errorf("%w: the certificate is a CA's", ErrEK)
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return fmt.Errorf("%w: the certificate is not for an endorsement key", ErrEK)
	}
	// The profile puts manufacturer, model and version into a critical
	// subjectAltName of directory names, which crypto/x509 reports as unhandled.
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err := leaf.Verify(x509.VerifyOptions{
		Intermediates: intermediates,
		Roots:         roots,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEKUntrusted, err)
	}
	return nil
}

// matchEK checks that public is the key that cert certifies.
func matchEK(cert *x509.Certificate, public []byte) error {
	pub, err := checkEK(public)
	if err != nil {
		return err
	}
	key, err := tpm2.Pub(*pub)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEK, err)
	}
	certified, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !certified.Equal(key) {
		return fmt.Errorf("%w: the key is not the certified one", ErrEK)
	}
	return nil
}

// checkEK checks that public is a restricted decryption key of its TPM, the
// only kind that proves by opening a challenge that another object is loaded
// beside it.
func checkEK(public []byte) (*tpm2.TPMTPublic, error) {
	pub, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEK, err)
	}
	a := pub.ObjectAttributes
	if !a.Restricted || !a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || a.SignEncrypt {
		return nil, fmt.Errorf("%w: not a restricted decryption key of its TPM", ErrEK)
	}
	return pub, nil
}

// NewChallenge makes a random secret that comes back only from the TPM in
// which both the EK and the AK of id live, and checks the attributes of both.
// Errors wrap [ErrEK] or [ErrAK].
func NewChallenge(id *Identity) (*Challenge, []byte, error) {
	if _, err := CheckAK(id.AK); err != nil {
		return nil, nil, err
	}
	pub, err := checkEK(id.EK)
	if err != nil {
		return nil, nil, err
	}
	name, err := Name(id.AK)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	key, err := tpm2.ImportEncapsulationKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrEK, err)
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: it ends the process instead
	object, encrypted, err := tpm2.CreateCredential(rand.Reader, key, name, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: make credential: %w", ErrEK, err)
	}
	return &Challenge{Credential: object, Secret: encrypted}, secret, nil
}
