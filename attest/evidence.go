package attest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// EvidenceVersion is the version that [Evidence] has today.
const EvidenceVersion = 1

// Limits on evidence that comes from outside.
const (
	MaxEvidence = 112 << 20 // bytes of an encoded Evidence
	MaxEventLog = 8 << 20   // bytes of a TCG event log
	MaxIMALog   = 64 << 20  // bytes of an IMA measurement list
	maxNonce    = 64        // bytes; TPM2B_DATA holds at most a digest
)

var (
	// ErrEvidence means that evidence is not well formed.
	ErrEvidence = errors.New("malformed evidence")
	// ErrVersion means that evidence is of a version this build does not know.
	ErrVersion = errors.New("unknown evidence version")
)

// Evidence is what a machine shows of its boot. Nothing in it is believed
// before [Verify] has tied it to the quote.
type Evidence struct {
	Version int `json:"version"`

	// TakenAt is the attester's own clock; informative only.
	TakenAt time.Time `json:"taken_at"`

	// Nonce is the challenge the attester believes to answer.
	Nonce Hex `json:"nonce"`

	// AK is the public part of the quoting key, a TPMT_PUBLIC.
	AK Hex `json:"ak"`

	// Quote is the TPMS_ATTEST that the TPM made, Signature the TPMT_SIGNATURE
	// over it.
	Quote     []byte `json:"quote"`
	Signature []byte `json:"signature"`

	// Banks holds the values of the quoted PCRs.
	Banks []Bank `json:"banks"`

	// EventLog is the firmware's log (Linux: binary_bios_measurements).
	EventLog []byte `json:"event_log,omitempty"`

	// IMALog is the kernel's list (binary_runtime_measurements or its ASCII twin).
	IMALog []byte `json:"ima_log,omitempty"`

	// UserLog is systemd's log of what user space measured
	// (tpm2-measure.log: JSON text sequence of the TCG canonical event log).
	UserLog []byte `json:"user_log,omitempty"`

	// Missing says, by log ("event_log", "ima_log", "user_log"), why one is
	// absent.
	Missing map[string]string `json:"missing,omitempty"`
}

// Bank holds the PCR values of one hash algorithm.
type Bank struct {
	Algorithm string      `json:"algorithm"` // "sha1", "sha256", "sha384", "sha512"
	PCRs      map[int]Hex `json:"pcrs"`
}

// Hex is bytes written as hexadecimal in JSON and TOML.
type Hex []byte

// String is h in lower-case hexadecimal.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Either case is read; a
// prefix "sha256:" as other tools print is dropped.
func (h *Hex) UnmarshalText(text []byte) error {
	text = bytes.TrimPrefix(text, []byte("sha256:"))
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("read %q as hexadecimal: %w", clip(string(text)), err)
	}
	*h = b
	return nil
}

// Encode gives e as JSON, deterministic for equal evidence.
func (e *Evidence) Encode() ([]byte, error) {
	out, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode evidence: %w", err)
	}
	return append(out, '\n'), nil
}

// DecodeEvidence reads evidence in JSON. It checks the form and the limits and
// judges nothing. Errors wrap [ErrEvidence] or [ErrVersion].
func DecodeEvidence(data []byte) (*Evidence, error) {
	if len(data) > MaxEvidence {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrEvidence, len(data), MaxEvidence)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, describeJSON(err))
	}
	if version.Version != EvidenceVersion {
		return nil, fmt.Errorf("%w: %d, this build reads %d", ErrVersion, version.Version, EvidenceVersion)
	}
	var e Evidence
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, describeJSON(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: data after the object", ErrEvidence)
	}
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	return &e, nil
}

func (e *Evidence) validate() error {
	switch {
	case len(e.Quote) == 0 || len(e.Signature) == 0:
		return errors.New("no quote")
	case len(e.AK) == 0:
		return errors.New("no attestation key")
	case len(e.Nonce) > maxNonce:
		return fmt.Errorf("nonce of %d bytes, at most %d", len(e.Nonce), maxNonce)
	case len(e.EventLog) > MaxEventLog:
		return fmt.Errorf("event log of %d bytes, at most %d", len(e.EventLog), MaxEventLog)
	case len(e.IMALog) > MaxIMALog:
		return fmt.Errorf("IMA log of %d bytes, at most %d", len(e.IMALog), MaxIMALog)
	}
	return validateBanks(e.Banks)
}

// describeJSON keeps a hostile document's text out of an error.
func describeJSON(err error) error {
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) {
		return corrupt
	}
	return errors.New(clip(err.Error()))
}

// clip shortens text from outside for a message.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
