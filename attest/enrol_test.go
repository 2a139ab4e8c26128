package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
)

// A chain may name an issuer with a key so large that one signature of it takes
// minutes to verify. It is refused before; one with a usual key is only untrusted.
func TestRefusesHugeIssuers(t *testing.T) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(name string, ca bool, public any) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	rsaOf := func(bits int) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).SetBytes(bytes.Repeat([]byte{0xFF}, bits/8)), E: 65537}
	}
	leaf := certificate("ek", false, signer.Public())
	for bits, want := range map[int]error{4096: attest.ErrEKUntrusted, 16384: attest.ErrEK} {
		id := &attest.Identity{EKCertificates: [][]byte{leaf, certificate("issuer", true, rsaOf(bits))}}
		if _, err := attest.VerifyEK(id, nil, x509.NewCertPool()); !errors.Is(err, want) {
			t.Errorf("an issuer with a key of %d bits: %v, want %v", bits, err, want)
		}
	}
}

// The digest of an EK's key is the same whatever its public area says beside, which its
// fingerprint is not; another key has another.
func TestKeyDigest(t *testing.T) {
	areaOf := func(key, policy byte, exponent uint32) *attest.Identity {
		area := tpm2.RSAEKTemplate
		params, err := area.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		own := *params
		own.Exponent = exponent
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &own)
		area.AuthPolicy.Buffer = bytes.Repeat([]byte{policy}, 32)
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{key}, 256)})
		return &attest.Identity{EK: tpm2.Marshal(&area)}
	}
	digest := func(id *attest.Identity) string {
		d, err := id.KeyDigest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	first := areaOf(0xF1, 0, 0)
	for name, same := range map[string]*attest.Identity{"another policy": areaOf(0xF1, 1, 0), "its exponent written out": areaOf(0xF1, 0, 65537)} {
		if digest(same) != digest(first) || same.Fingerprint().String() == first.Fingerprint().String() {
			t.Errorf("%s: %s and %s", name, digest(first), digest(same))
		}
	}
	if digest(areaOf(0xF2, 0, 0)) == digest(first) {
		t.Error("two keys have one digest")
	}
	if d, err := (&attest.Identity{EK: []byte("no area")}).KeyDigest(); d != nil || !errors.Is(err, attest.ErrEK) {
		t.Errorf("no public area: %v, %v", d, err)
	}
}
