// Package sign signs and verifies documents as DSSE envelopes.
//
// Keys are Ed25519, ECDSA (P-256, P-384, P-521 with SHA-256, SHA-384, SHA-512) or
// RSA of 2048 bits and more (PKCS #1 v1.5 with SHA-512 or SHA-256): those that
// files, TPMs and SSH agents hold.
//
// DSSE v1.0: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
// A verifier trusts the keys it is given and no other; the key id in an envelope
// is a hint, never a reason to trust.
//
// A signature covers payload and type. What else is in an envelope must be as [Seal]
// writes it: byte for byte in the encoding, and the names beside the signature that
// counts those of its key. So nothing can be put into one, or a bit of it change, and
// it still open; except for signatures by keys that are not trusted, of which DSSE
// allows any number.
package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

var (
	// ErrSignature: no signature by a trusted key verifies.
	ErrSignature = errors.New("bad signature")
	// ErrUntrusted: the envelope is signed only by keys that are not trusted.
	ErrUntrusted = errors.New("signed by a key that is not trusted")
)

// Signer makes signatures that [Verify] accepts. Keys in files and in SSH agents
// implement it here; a key in a TPM needs nothing more.
type Signer interface {
	Public() PublicKey
	// Sign signs message itself; whatever digest the algorithm wants is its own.
	Sign(message []byte) ([]byte, error)
}

type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

// signature has the algorithm for people to read: what counts is the key.
type signature struct {
	KeyID     string `json:"keyid"`
	Algorithm string `json:"alg,omitempty"`
	Sig       []byte `json:"sig"`
}

// maxSignatures bounds the work an envelope can ask for.
const maxSignatures = 16

// Seal wraps payload in an envelope signed by s.
func Seal(payloadType string, payload []byte, s Signer) ([]byte, error) {
	sig, err := s.Sign(preAuth(payloadType, payload))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !Verify(s.Public(), preAuth(payloadType, payload), sig) {
		return nil, fmt.Errorf("sign: the key made a signature that does not verify: %w", ErrSignature)
	}
	return json.Marshal(envelope{payloadType, payload, []signature{{KeyID(s.Public()), Algorithm(s.Public()), sig}}})
}

// Open returns the payload of an envelope that one of the trusted keys signed,
// and that key.
func Open(payloadType string, data []byte, trusted []PublicKey) ([]byte, PublicKey, error) {
	e, err := readEnvelope(payloadType, data)
	if err != nil {
		return nil, nil, err
	}
	known := false
	message := preAuth(e.PayloadType, e.Payload)
	for _, s := range e.Signatures {
		for _, key := range trusted {
			known = known || s.KeyID == KeyID(key)
			if !Verify(key, message, s.Sig) {
				continue
			}
			if s.KeyID != KeyID(key) || s.Algorithm != "" && s.Algorithm != Algorithm(key) {
				return nil, nil, fmt.Errorf("read envelope: the signature by %s says that it is %s by %s: %w", KeyID(key), s.Algorithm, s.KeyID, ErrSignature)
			}
			return e.Payload, key, nil
		}
	}
	if !known {
		return nil, nil, fmt.Errorf("%w: %s", ErrUntrusted, e.Signatures[0].KeyID)
	}
	return nil, nil, ErrSignature
}

// Payload returns the payload of an envelope whoever signed it: for what came
// on a channel that says by itself who speaks.
func Payload(payloadType string, data []byte) ([]byte, error) {
	e, err := readEnvelope(payloadType, data)
	if err != nil {
		return nil, err
	}
	return e.Payload, nil
}

func readEnvelope(payloadType string, data []byte) (*envelope, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read envelope: %w: %w", err, ErrSignature)
	}
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("read envelope: payload is %q, want %q: %w", e.PayloadType, payloadType, ErrSignature)
	}
	if n := len(e.Signatures); n == 0 || n > maxSignatures {
		return nil, fmt.Errorf("read envelope: %d signatures, want 1 to %d: %w", n, maxSignatures, ErrSignature)
	}
	if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("read envelope: it is not as it was written: %w", ErrSignature)
	}
	return &e, nil
}

// preAuth is DSSE's PAE: what is signed.
func preAuth(payloadType string, payload []byte) []byte {
	b := []byte("DSSEv1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(payload)) + " ")
	return append(b, payload...)
}
