// Package wire holds the IPMI OEM commands between a verifier and an
// out-of-band measurement agent: their numbers and their bytes.
//
// They live in the OEM network function 2Eh/2Fh, whose first three data bytes
// name the body that defines them (IPMI v2.0 rev. 1.1, section 5.1, table 5-1).
package wire

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Enterprise is the IANA private enterprise number in front of each request and
// response. 32473 is the number RFC 5612 keeps for documentation; the project
// has none of its own yet.
const Enterprise = 32473

// NetFn is the OEM network function of requests.
const NetFn = 0x2E

// Commands under NetFn.
const (
	CmdStartScan = 0x01 // nonce[32] -> state
	CmdScanState = 0x02 // -> state
)

// NonceSize is the size of a scan's nonce in bytes.
const NonceSize = 32

// SELRecordType is the type of the OEM SEL record that asks for a scan where no
// OEM command can reach the agent: a non-timestamped OEM record, E0h to FFh, has
// 13 free bytes (IPMI v2.0 rev. 1.1, section 32.3). They carry the enterprise
// number (3 bytes) and the first 10 bytes of the nonce.
const SELRecordType = 0xE1

// SELNonceSize is how much of a nonce a SEL record carries, in bytes.
const SELNonceSize = 10

// Phase is where the agent's latest scan stands.
type Phase uint8

// Phases of a scan.
const (
	Idle    Phase = 0 // no scan since the agent started
	Running Phase = 1
	Done    Phase = 2 // measured, and the report is in the agent's spool
	Failed  Phase = 3 // no report; the agent's log and status record say why
)

func (p Phase) String() string {
	switch p {
	case Idle:
		return "idle"
	case Running:
		return "running"
	case Done:
		return "done"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// State answers both commands: 3 bytes enterprise number, 1 byte version, 1 byte
// phase, 8 bytes of the nonce, 4 bytes elapsed milliseconds, integers least
// significant byte first as everywhere in IPMI.
type State struct {
	Phase     Phase
	Nonce     [8]byte // first bytes of the nonce the phase is about
	ElapsedMS uint32
}

const stateVersion = 1

// Errors of the decoders.
var (
	ErrEnterprise = errors.New("not this enterprise's command")
	ErrVersion    = errors.New("unknown version of scan state")
)

func appendEnterprise(b []byte) []byte {
	return append(b, byte(Enterprise&0xff), byte(Enterprise>>8&0xff), byte(Enterprise>>16&0xff))
}

func enterprise(c *bin.Cursor) error {
	b := c.Bytes(3)
	if err := c.Err(); err != nil {
		return err
	}
	if got := int(b[0]) | int(b[1])<<8 | int(b[2])<<16; got != Enterprise {
		return fmt.Errorf("%w: %d", ErrEnterprise, got)
	}
	return nil
}

// StartScan encodes the data of a Start Scan request.
func StartScan(nonce [NonceSize]byte) []byte {
	return append(appendEnterprise(nil), nonce[:]...)
}

// ParseStartScan decodes the data of a Start Scan request.
func ParseStartScan(data []byte) (nonce [NonceSize]byte, err error) {
	c := bin.Little(data)
	if err := enterprise(c); err != nil {
		return nonce, fmt.Errorf("start scan: %w", err)
	}
	b := c.Bytes(NonceSize)
	if c.Err() != nil {
		return nonce, fmt.Errorf("start scan: %w", c.Err())
	}
	if c.Len() != 0 {
		return nonce, fmt.Errorf("start scan: %d bytes too many", c.Len())
	}
	copy(nonce[:], b)
	return nonce, nil
}

// ScanState encodes the data of a Get Scan State request.
func ScanState() []byte { return appendEnterprise(nil) }

// ParseScanState checks the data of a Get Scan State request.
func ParseScanState(data []byte) error { return enterprise(bin.Little(data)) }

// Encode gives the response data of both commands.
func (s State) Encode() []byte {
	b := append(appendEnterprise(nil), stateVersion, byte(s.Phase))
	b = append(b, s.Nonce[:]...)
	e := s.ElapsedMS
	return append(b, byte(e), byte(e>>8), byte(e>>16), byte(e>>24))
}

// ParseState decodes the response data of both commands.
func ParseState(data []byte) (State, error) {
	c := bin.Little(data)
	if err := enterprise(c); err != nil {
		return State{}, fmt.Errorf("scan state: %w", err)
	}
	version, phase := c.U8(), Phase(c.U8())
	nonce, elapsed := c.Bytes(8), c.U32()
	if c.Err() != nil {
		return State{}, fmt.Errorf("scan state: %w", c.Err())
	}
	if version != stateVersion {
		return State{}, fmt.Errorf("%w: %d", ErrVersion, version)
	}
	s := State{Phase: phase, ElapsedMS: elapsed}
	copy(s.Nonce[:], nonce)
	return s, nil
}

// SELRecord encodes the 13 free bytes of the SEL record that asks for a scan.
func SELRecord(nonce [NonceSize]byte) [13]byte {
	var r [13]byte
	copy(r[:], append(appendEnterprise(nil), nonce[:SELNonceSize]...))
	return r
}

// ParseSELRecord decodes the free bytes of a SEL record of [SELRecordType].
func ParseSELRecord(data []byte) (nonce [SELNonceSize]byte, err error) {
	c := bin.Little(data)
	if err := enterprise(c); err != nil {
		return nonce, fmt.Errorf("SEL record: %w", err)
	}
	b := c.Bytes(SELNonceSize)
	if c.Err() != nil {
		return nonce, fmt.Errorf("SEL record: %w", c.Err())
	}
	copy(nonce[:], b)
	return nonce, nil
}
