package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// PublicKey is an ed25519.PublicKey, *ecdsa.PublicKey or *rsa.PublicKey that
// [CheckKey] finds fit.
type PublicKey = crypto.PublicKey

// minRSA is the least size of an RSA key in bits.
const minRSA = 2048

// ErrKey: a key of a kind or size that is not used here.
var ErrKey = errors.New("key cannot be used")

// CheckKey says whether signatures by key can count.
func CheckKey(key PublicKey) error {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if _, _, ok := ecdsaDigest(key, nil); ok {
			return nil
		}
		return fmt.Errorf("%w: ECDSA on %s; P-256, P-384 and P-521 are", ErrKey, key.Params().Name)
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSA {
			return nil
		}
		return fmt.Errorf("%w: RSA of %d bits; from %d on they are", ErrKey, key.N.BitLen(), minRSA)
	}
	return fmt.Errorf("%w: %T; Ed25519, ECDSA and RSA are", ErrKey, key)
}

// Verify says whether sig is key's signature of message: raw for Ed25519 (RFC
// 8032), ASN.1 for ECDSA, PKCS #1 v1.5 for RSA.
func Verify(key PublicKey, message, sig []byte) bool {
	if CheckKey(key) != nil {
		return false
	}
	switch key := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, sig)
	case *ecdsa.PublicKey:
		_, digest, _ := ecdsaDigest(key, message)
		return ecdsa.VerifyASN1(key, digest, sig)
	case *rsa.PublicKey:
		long, short := sha512.Sum512(message), sha256.Sum256(message)
		return rsa.VerifyPKCS1v15(key, crypto.SHA512, long[:], sig) == nil || rsa.VerifyPKCS1v15(key, crypto.SHA256, short[:], sig) == nil
	}
	return false
}

// ecdsaDigest is the digest that goes with a curve, as in SSH (RFC 5656, 6.2.1).
func ecdsaDigest(key *ecdsa.PublicKey, message []byte) (name string, digest []byte, ok bool) {
	switch key.Params().BitSize {
	case 256:
		sum := sha256.Sum256(message)
		return "ecdsa-p256-sha256", sum[:], true
	case 384:
		sum := sha512.Sum384(message)
		return "ecdsa-p384-sha384", sum[:], true
	case 521:
		sum := sha512.Sum512(message)
		return "ecdsa-p521-sha512", sum[:], true
	}
	return "", nil, false
}

// Algorithm names how a key signs.
func Algorithm(key PublicKey) string {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return "ed25519"
	case *ecdsa.PublicKey:
		name, _, _ := ecdsaDigest(key, nil)
		return name
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", key.N.BitLen())
	}
	return "unknown"
}

// KeyID names a public key: "SHA256:" and the unpadded base64 of the SHA-256 of
// its 32 bytes (Ed25519) or of its SubjectPublicKeyInfo (other keys).
func KeyID(key PublicKey) string {
	text, ok := key.(ed25519.PublicKey)
	if !ok {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return "unknown"
		}
		text = der
	}
	sum := sha256.Sum256(text)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// WritePublicKey writes a public key as PEM.
func WritePublicKey(path string, key PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("write public key: %w", err)
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

// LoadPublicKey reads a public key: PEM, SubjectPublicKeyInfo, or a line as
// OpenSSH has it in a .pub file.
func LoadPublicKey(path string) (PublicKey, error) {
	text, err := bin.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return key, nil
}

// ParsePublicKey reads what [LoadPublicKey] does. A second key after the first
// is an error: who meant it to be trusted would be wrong.
func ParsePublicKey(text []byte) (PublicKey, error) {
	var key PublicKey
	if block, rest := pem.Decode(text); block != nil {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%w: PEM block %q, want PUBLIC KEY", ErrKey, block.Type)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			return nil, fmt.Errorf("%w: more than one in the file", ErrKey)
		}
		key = parsed
	} else {
		parsed, _, _, rest, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			return nil, fmt.Errorf("%w: neither PEM (PUBLIC KEY) nor an OpenSSH public key", ErrKey)
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			return nil, fmt.Errorf("%w: more than one in the file", ErrKey)
		}
		if key, err = cryptoKey(parsed); err != nil {
			return nil, err
		}
	}
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	return key, nil
}

// cryptoKey is an SSH key without its wrapping. Keys of security tokens sign
// something else than the message, so they are not used.
func cryptoKey(key ssh.PublicKey) (PublicKey, error) {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA:
		return key.(ssh.CryptoPublicKey).CryptoPublicKey(), nil
	}
	return nil, fmt.Errorf("%w: SSH key of type %s", ErrKey, key.Type())
}
