package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ErrAK means that a key is not one whose signature proves anything about a TPM.
var ErrAK = errors.New("not an attestation key")

// maxPublic bounds a TPMT_PUBLIC from outside: an RSA-4096 key with its
// policy needs under 700 bytes.
const maxPublic = 2048

// CheckAK checks that public (TPMT_PUBLIC) is an ECDSA P-256 key with SHA-256
// that can sign only what its TPM made: restricted, for signing and not for
// decrypting, created inside the TPM and never able to leave it. Whether it is
// in a particular TPM only credential activation tells: [NewChallenge].
func CheckAK(public []byte) (*ecdsa.PublicKey, error) {
	pub, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	a := pub.ObjectAttributes
	for _, want := range []struct {
		name     string
		is, must bool
	}{
		{"restricted", a.Restricted, true},
		{"fixedTPM", a.FixedTPM, true},
		{"fixedParent", a.FixedParent, true},
		{"sensitiveDataOrigin", a.SensitiveDataOrigin, true},
		{"sign", a.SignEncrypt, true},
		{"decrypt", a.Decrypt, false},
	} {
		if want.is != want.must {
			return nil, fmt.Errorf("%w: attribute %s is %t", ErrAK, want.name, want.is)
		}
	}
	return p256Key(pub)
}

func p256Key(pub *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	if pub.Type != tpm2.TPMAlgECC || pub.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, fmt.Errorf("%w: type %#04x with name hash %#04x, want ECC with SHA-256", ErrAK, pub.Type, pub.NameAlg)
	}
	parms, err := pub.Parameters.ECCDetail()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	if parms.CurveID != tpm2.TPMECCNistP256 {
		return nil, fmt.Errorf("%w: curve %#04x, want P-256", ErrAK, parms.CurveID)
	}
	point, err := pub.Unique.ECC()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	return newP256(point.X.Buffer, point.Y.Buffer)
}

// newP256 builds a public key from coordinates and refuses a point that is not
// on the curve.
func newP256(x, y []byte) (*ecdsa.PublicKey, error) {
	if len(x) > 32 || len(y) > 32 {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes", ErrAK, len(x), len(y))
	}
	point := make([]byte, 1+32+32) // SEC 1, 2.3.3: uncompressed
	point[0] = 4
	copy(point[1+32-len(x):], x)
	copy(point[1+64-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	return key, nil
}

// Name is the TPM Name of a TPMT_PUBLIC: its name algorithm and hash. It is
// what operators compare and policies list.
func Name(public []byte) (Hex, error) {
	pub, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return nil, fmt.Errorf("name a public area: %w", err)
	}
	return name.Buffer, nil
}

// parsePublic reads a TPMT_PUBLIC (TPM 2.0 Library, Part 2, 12.2.4) and refuses
// any other encoding of the same value.
func parsePublic(data []byte) (*tpm2.TPMTPublic, error) {
	if len(data) > maxPublic {
		return nil, fmt.Errorf("public area of %d bytes, at most %d", len(data), maxPublic)
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return nil, fmt.Errorf("read public area: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(pub), data) {
		return nil, errors.New("read public area: not in its one encoding")
	}
	return pub, nil
}
