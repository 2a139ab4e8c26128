// Package userlog reads the log in which systemd tells what user space extended
// into PCRs: /run/log/systemd/tpm2-measure.log, from version 255 on. It is a
// sequence of JSON texts (RFC 7464) that are records of the TCG Canonical Event
// Log Format, version 1.0, section 5.2, without their numbers
// (https://systemd.io/TPM2_PCR_MEASUREMENTS).
package userlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// maxEvents bounds a hostile log; a boot has some ten events.
const maxEvents = 1 << 14

// ErrFormat means that bytes are not such a log, or stop being one at some
// record; what precedes is returned.
var ErrFormat = errors.New("malformed user-space event log")

// Event is one record.
type Event struct {
	Index   int // from 0
	PCR     int
	Digests map[string][]byte // by algorithm: "sha256"
	Type    string            // "phase", "machine-id", "filesystem", ...
	Text    string            // what was measured, where that is no secret
}

// record is the JSON form.
type record struct {
	PCR     *int `json:"pcr"` // absent where an NV index was extended instead
	Digests []struct {
		Algorithm string `json:"hashAlg"`
		Digest    string `json:"digest"`
	} `json:"digests"`
	Content struct {
		String    string `json:"string"`
		EventType string `json:"eventType"`
	} `json:"content"`
}

// Parse reads a log. Records about anything but PCRs are passed over. A damaged
// log gives the events before the damage with an error that wraps [ErrFormat].
func Parse(data []byte) ([]Event, error) {
	var out []Event
	for len(bytes.TrimSpace(data)) > 0 {
		var text []byte
		text, data = cutRecord(data)
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(out) == maxEvents {
			return out, fmt.Errorf("%w: more than %d events", ErrFormat, maxEvents)
		}
		event, err := parseRecord(text)
		if err != nil {
			return out, fmt.Errorf("%w: event %d: %w", ErrFormat, len(out), err)
		}
		if event != nil {
			event.Index = len(out)
			out = append(out, *event)
		}
	}
	return out, nil
}

// cutRecord splits at the record separator, 0x1e, that starts each text.
func cutRecord(data []byte) (text, rest []byte) {
	const separator = 0x1e
	data = bytes.TrimLeft(data, string(rune(separator))+" \n")
	if i := bytes.IndexByte(data, separator); i >= 0 {
		return data[:i], data[i:]
	}
	return data, nil
}

// parseRecord gives nil for a record that is about no PCR.
func parseRecord(text []byte) (*Event, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, errors.New("not a JSON object of the expected form")
	}
	if r.PCR == nil {
		return nil, nil
	}
	if *r.PCR < 0 || *r.PCR > 23 {
		return nil, fmt.Errorf("PCR %d does not exist", *r.PCR)
	}
	e := &Event{PCR: *r.PCR, Digests: make(map[string][]byte), Type: r.Content.EventType, Text: r.Content.String}
	for _, d := range r.Digests {
		value, err := hex.DecodeString(d.Digest)
		if err != nil || len(value) > 64 {
			return nil, fmt.Errorf("digest of algorithm %.16q is not hexadecimal", d.Algorithm)
		}
		e.Digests[d.Algorithm] = value
	}
	return e, nil
}
