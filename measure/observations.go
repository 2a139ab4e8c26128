package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version is the format of [Observations] that this package writes and reads.
const Version = 1

// MaxEncoded bounds what [DecodeObservations] accepts, in bytes. A full scan
// of a distribution kernel with modules is about 1 MB.
const MaxEncoded = 64 << 20

// MaxItems bounds the observations of one scan.
const MaxItems = 1024

// Errors of [DecodeObservations].
var (
	ErrTooLarge = errors.New("measure: observations too large")
	ErrVersion  = errors.New("measure: unknown version of observations")
	ErrInvalid  = errors.New("measure: invalid observations")
)

// Observations is the evidence of one scan: facts, no opinions.
type Observations struct {
	Version   int       `json:"version"`
	Target    Target    `json:"target"`
	Nonce     []byte    `json:"nonce,omitempty"` // of the request that caused the scan, empty for a one-shot command
	TakenAt   time.Time `json:"taken_at"`
	PauseNS   int64     `json:"pause_ns"` // the longest pause
	ElapsedNS int64     `json:"elapsed_ns"`
	// TotalPauseNS is the sum of all pauses of the scan.
	TotalPauseNS int64         `json:"total_pause_ns,omitempty"`
	Kernel       Kernel        `json:"kernel"`
	Items        []Observation `json:"items"`
}

// Observation is what one check saw. Exactly one of NotMeasured and Data is set.
type Observation struct {
	Check       string          `json:"check"`
	NotMeasured string          `json:"not_measured,omitempty"` // the reason nothing was observed
	Coverage    Coverage        `json:"coverage"`
	Data        json.RawMessage `json:"data,omitempty"` // its shape belongs to the check
}

// Encode returns the canonical form: the same observations always give the same
// bytes, which is what [Bind] and the store rely on.
func (o *Observations) Encode() ([]byte, error) {
	canonical := *o
	canonical.Version = Version
	canonical.TakenAt = o.TakenAt.UTC().Round(0)
	b, err := json.Marshal(&canonical)
	if err != nil {
		return nil, fmt.Errorf("encode observations: %w", err)
	}
	return b, nil
}

// Item returns the observation of a check, nil if there is none.
func (o *Observations) Item(check string) *Observation {
	for i := range o.Items {
		if o.Items[i].Check == check {
			return &o.Items[i]
		}
	}
	return nil
}

// DecodeObservations reads what [Observations.Encode] wrote. The bytes are
// hostile: they are bounded, and anything unknown, repeated or left over is an
// error ([ErrTooLarge], [ErrVersion] or [ErrInvalid]).
func DecodeObservations(b []byte) (*Observations, error) {
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var o Observations
	if err := dec.Decode(&o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes after the end", ErrInvalid)
	}
	if o.Version != Version {
		return nil, fmt.Errorf("%w: %d", ErrVersion, o.Version)
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &o, nil
}

func (o *Observations) validate() error {
	if len(o.Items) > MaxItems {
		return fmt.Errorf("%d items", len(o.Items))
	}
	seen := make(map[string]bool, len(o.Items))
	for _, item := range o.Items {
		switch {
		case item.Check == "":
			return errors.New("item without a check")
		case seen[item.Check]:
			return fmt.Errorf("check %q observed twice", item.Check)
		case (item.NotMeasured == "") == (len(item.Data) == 0):
			return fmt.Errorf("check %q has neither or both of data and reason", item.Check)
		}
		seen[item.Check] = true
	}
	if o.PauseNS < 0 || o.ElapsedNS < 0 || o.TotalPauseNS < 0 {
		return errors.New("negative duration")
	}
	return nil
}

// bindDomain separates this use of SHA-256 from every other.
const bindDomain = "plumbline scan observations v1\x00"

// Bind ties encoded observations to the nonce that asked for them:
// SHA-256 over a domain tag, the nonce with its length, and the bytes. It is
// the qualifying data of the measuring machine's quote.
func Bind(nonce, encoded []byte) [32]byte {
	h := sha256.New()
	io.WriteString(h, bindDomain)
	h.Write([]byte{byte(len(nonce) >> 8), byte(len(nonce))})
	h.Write(nonce)
	h.Write(encoded)
	return [32]byte(h.Sum(nil))
}
