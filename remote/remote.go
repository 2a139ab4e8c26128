// Package remote holds what an agent, the verifier and the people who ask it
// say to each other: HTTPS and JSON, described for other languages in
// docs/api.md, and a client for each of the two sides.
//
// The package states shapes and carries bytes. It judges nothing: an agent's
// record is a claim until the verifier has appraised it, and no field of a
// record is a verdict.
//
// Trust: an agent knows the verifier by the certificate of the verifier's own
// authority, given to it out of band. The verifier knows an agent by a client
// certificate that it issued after credential activation, so the certificate
// stands for one TPM. Everything received is hostile until checked; the limits
// below are enforced by the verifier and respected by the clients.
package remote

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"
)

// Limits of the wire. A request past one of them is refused whole, with
// status 413, and changes nothing.
const (
	MaxRecordBytes  = 16 << 20 // one record as JSON
	MaxRequestBytes = 32 << 20 // one request with records
	MaxRecords      = 512      // records in one request
	MaxBodyBytes    = 64 << 20 // one content-addressed body
	MaxNameBytes    = 253      // name of a host or target (a DNS name fits)
	MaxNeed         = 65536    // digests in one need list
)

// NonceSize is the length in bytes of every nonce.
const NonceSize = 32

// ErrName is returned for a host or target name that cannot be used.
var ErrName = errors.New("name is not usable")

// CheckName says whether name may name a host or a target: 1 to 253 letters,
// digits, dots, hyphens and underscores, beginning with a letter or a digit.
// Names appear in paths, certificates and log lines, hence the narrow set.
func CheckName(name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fmt.Errorf("%w: %d bytes long, want 1 to %d", ErrName, len(name), MaxNameBytes)
	}
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", r)) {
			return fmt.Errorf("%w: %q at byte %d", ErrName, r, i)
		}
	}
	return nil
}

// Digest is the BLAKE3-256 of a body; in JSON and in paths it is 64 lower-case
// hexadecimal digits.
type Digest [32]byte

// DigestOf returns the digest of body.
func DigestOf(body []byte) Digest { return blake3.Sum256(body) }

// ErrDigest is returned for text that is not a digest.
var ErrDigest = errors.New("not a digest of 64 lower-case hexadecimal digits")

// ParseDigest reads the hexadecimal form.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return Digest{}, ErrDigest
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, ErrDigest
	}
	return d, nil
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// Nonce is a verifier's challenge; in JSON it is 64 lower-case hexadecimal
// digits, as people see it in `ipmitool raw` and in the console.
type Nonce [NonceSize]byte

func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// MarshalText implements encoding.TextMarshaler.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Nonce) UnmarshalText(text []byte) error {
	if len(text) != 2*NonceSize {
		return fmt.Errorf("nonce has %d hexadecimal digits, want %d", len(text), 2*NonceSize)
	}
	_, err := hex.Decode(n[:], text)
	return err
}
