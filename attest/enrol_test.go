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
