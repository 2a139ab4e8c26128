// Package eventlog reads the log in which UEFI firmware tells what it extended
// into the TPM's PCRs: the crypto-agile log of the TCG PC Client Platform
// Firmware Profile Specification (PFP), Level 00 Version 1.05 Revision 23.
//
// Parsing, replay and interpretation are three things. [Parse] reads structure,
// [Log.Replay] says which PCR values the log leads to, and the decoders say what
// an event means. A log proves nothing before its replay equals quoted PCRs, and
// even then only digests are proved: an event's type and data are claims of
// whoever wrote the log unless [Event.Bound] ties the data to the digest.
package eventlog

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // banks of old TPMs
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Limits on hostile logs. Real ones have 30 to 300 events.
const (
	maxEvents     = 1 << 16
	maxAlgorithms = 16
)

var (
	// ErrFormat means that bytes are not a crypto-agile TCG log, or stop being
	// one at some event; what precedes is returned.
	ErrFormat = errors.New("malformed event log")
	// ErrNotSupported means a log without crypto agility (SHA-1 only), which
	// no TPM 2.0 firmware needs to write.
	ErrNotSupported = errors.New("event log format not supported")
)

// Log is a parsed event log.
type Log struct {
	// Algorithms are the banks that every event has a digest for, as the log's
	// header lists them.
	Algorithms []Algorithm
	Events     []Event
}

// Algorithm is a hash algorithm of the log.
type Algorithm struct {
	ID   uint16 // TPM_ALG_ID
	Size int    // bytes of a digest
}

// Event is one entry.
type Event struct {
	Index   int // from 0, which is the header
	PCR     int
	Type    Type
	Digests []Digest
	Data    []byte
}

// Digest is what was extended into one bank.
type Digest struct {
	Algorithm uint16 // TPM_ALG_ID
	Value     []byte
}

// Parse reads a log. Its slices refer to data. When the log is damaged or ends
// in the middle of an event, what precedes comes with the error, which wraps
// [ErrFormat]; without a valid header there is no log.
func Parse(data []byte) (*Log, error) {
	c := bin.Little(data)
	log, err := parseHeader(c)
	if err != nil {
		return nil, err
	}
	for c.Len() > 0 {
		if len(log.Events) == maxEvents {
			return log, fmt.Errorf("%w: more than %d events", ErrFormat, maxEvents)
		}
		event, err := log.parseEvent(c)
		if err != nil {
			return log, fmt.Errorf("%w: event %d: %w", ErrFormat, len(log.Events), err)
		}
		log.Events = append(log.Events, *event)
	}
	return log, nil
}

// parseHeader reads the first event: a TCG_PCClientPCREvent (PFP 10.2.1) that
// holds a TCG_EfiSpecIDEvent (PFP 10.4.5.1).
func parseHeader(c *bin.Cursor) (*Log, error) {
	pcr, kind := c.U32(), Type(c.U32())
	sha1 := c.Bytes(20)
	data := c.Bytes(int(c.U32()))
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	if kind != NoAction || pcr != 0 {
		return nil, fmt.Errorf("%w: the first event is no specification header", ErrNotSupported)
	}
	spec := bin.Little(data)
	signature := spec.Bytes(16)
	if !bytes.Equal(signature, []byte("Spec ID Event03\x00")) {
		return nil, fmt.Errorf("%w: header signature %q", ErrNotSupported, signature)
	}
	spec.Skip(4 + 1 + 1 + 1 + 1) // platform class, minor, major, errata, size of UINTN
	count := spec.U32()
	if spec.Err() == nil && (count == 0 || count > maxAlgorithms) {
		return nil, fmt.Errorf("%w: header lists %d algorithms", ErrFormat, count)
	}
	log := &Log{}
	for range count {
		a := Algorithm{ID: spec.U16(), Size: int(spec.U16())}
		if spec.Err() != nil {
			break
		}
		if h := hashOf(a.ID); h != 0 && h.Size() != a.Size {
			return nil, fmt.Errorf("%w: header gives algorithm %#04x digests of %d bytes", ErrFormat, a.ID, a.Size)
		}
		if log.size(a.ID) != 0 {
			return nil, fmt.Errorf("%w: header lists algorithm %#04x twice", ErrFormat, a.ID)
		}
		log.Algorithms = append(log.Algorithms, a)
	}
	spec.Skip(int(spec.U8())) // vendor information
	if err := spec.Err(); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	log.Events = []Event{{Type: kind, Digests: []Digest{{Algorithm: algSHA1, Value: sha1}}, Data: data}}
	return log, nil
}

// parseEvent reads a TCG_PCR_EVENT2 (PFP 10.2.2).
func (l *Log) parseEvent(c *bin.Cursor) (*Event, error) {
	e := &Event{Index: len(l.Events), PCR: int(c.U32()), Type: Type(c.U32())}
	count := c.U32()
	if err := c.Err(); err != nil {
		return nil, err
	}
	if e.PCR > 23 && e.Type != NoAction {
		return nil, fmt.Errorf("PCR %d does not exist", e.PCR)
	}
	if int(count) > len(l.Algorithms) {
		return nil, fmt.Errorf("%d digests, the header lists %d algorithms", count, len(l.Algorithms))
	}
	for range count {
		id := c.U16()
		size := l.size(id)
		if c.Err() == nil && size == 0 {
			return nil, fmt.Errorf("digest of algorithm %#04x, which the header does not list", id)
		}
		if e.Digest(id) != nil {
			return nil, fmt.Errorf("two digests of algorithm %#04x", id)
		}
		e.Digests = append(e.Digests, Digest{Algorithm: id, Value: c.Bytes(size)})
	}
	e.Data = c.Bytes(int(c.U32()))
	if err := c.Err(); err != nil {
		return nil, err
	}
	return e, nil
}

func (l *Log) size(id uint16) int {
	for _, a := range l.Algorithms {
		if a.ID == id {
			return a.Size
		}
	}
	return 0
}

// Digest returns the digest for a bank (TPM_ALG_ID), nil if there is none.
func (e *Event) Digest(algorithm uint16) []byte {
	for _, d := range e.Digests {
		if d.Algorithm == algorithm {
			return d.Value
		}
	}
	return nil
}

// Bound reports whether the event's digest in the given bank is the hash of its
// data. Only then is the data proved by the PCR.
func (e *Event) Bound(algorithm uint16) bool {
	h := hashOf(algorithm)
	if h == 0 {
		return false
	}
	sum := h.New()
	sum.Write(e.Data)
	return bytes.Equal(sum.Sum(nil), e.Digest(algorithm))
}

// TPM_ALG_ID of hash algorithms (TPM 2.0 Library, Part 2, 6.3).
const (
	algSHA1   = 0x0004
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algSHA512 = 0x000d
)

// Bank gives the TPM_ALG_ID of "sha1", "sha256", "sha384" or "sha512"; 0 for
// any other name.
func Bank(name string) uint16 {
	switch name {
	case "sha1":
		return algSHA1
	case "sha256":
		return algSHA256
	case "sha384":
		return algSHA384
	case "sha512":
		return algSHA512
	}
	return 0
}

func hashOf(algorithm uint16) crypto.Hash {
	switch algorithm {
	case algSHA1:
		return crypto.SHA1
	case algSHA256:
		return crypto.SHA256
	case algSHA384:
		return crypto.SHA384
	case algSHA512:
		return crypto.SHA512
	}
	return 0
}
