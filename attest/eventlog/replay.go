package eventlog

import (
	"bytes"
	"fmt"
)

// Register is a PCR as the log leads to it.
type Register struct {
	Value  []byte
	Events int // that extended it
}

// Replay extends PCRs 0 to 23 of one bank (TPM_ALG_ID) as the log says. A
// PCR that no event extends has its value at reset: ones for 17 to 22 (TCG PC
// Client PTP 1.05, 4.6.2), zeros for others, and for PCR 0 the locality that the
// log's StartupLocality event gives. An event without a digest for the bank is
// an error that wraps [ErrFormat].
func (l *Log) Replay(algorithm uint16) (map[int]Register, error) {
	h := hashOf(algorithm)
	if h == 0 || l.size(algorithm) == 0 {
		return nil, fmt.Errorf("%w: no digests of algorithm %#04x", ErrNotSupported, algorithm)
	}
	out := make(map[int]Register, 24)
	for pcr := range 24 {
		value := make([]byte, h.Size())
		if pcr >= 17 && pcr <= 22 {
			value = bytes.Repeat([]byte{0xff}, h.Size())
		}
		out[pcr] = Register{Value: value}
	}
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == NoAction { // never extended (PFP 10.4.5)
			if err := startPCR0(out, e); err != nil {
				return nil, err
			}
			continue
		}
		digest := e.Digest(algorithm)
		if digest == nil {
			return nil, fmt.Errorf("%w: event %d has no digest of algorithm %#04x", ErrFormat, i, algorithm)
		}
		r := out[e.PCR]
		sum := h.New()
		sum.Write(r.Value)
		sum.Write(digest)
		out[e.PCR] = Register{Value: sum.Sum(nil), Events: r.Events + 1}
	}
	return out, nil
}

// startPCR0 applies a TCG_EfiStartupLocalityEvent (PFP 10.4.5.3): PCR 0 starts
// with the locality of TPM2_Startup, or of the H-CRTM, in its last byte.
func startPCR0(registers map[int]Register, e *Event) error {
	locality, ok := e.StartupLocality()
	if !ok {
		return nil
	}
	r := registers[0]
	if r.Events != 0 || r.Value[len(r.Value)-1] != 0 {
		return fmt.Errorf("%w: event %d sets the startup locality after PCR 0 was used", ErrFormat, e.Index)
	}
	r.Value[len(r.Value)-1] = locality
	return nil
}

// StartupLocality reads the locality out of a startup locality event; ok is
// false for any other event.
func (e *Event) StartupLocality() (locality byte, ok bool) {
	signature := []byte("StartupLocality\x00")
	if e.Type != NoAction || e.PCR != 0 || len(e.Data) != len(signature)+1 || !bytes.HasPrefix(e.Data, signature) {
		return 0, false
	}
	return e.Data[len(signature)], true
}
