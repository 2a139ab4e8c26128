package remote

import (
	"encoding/json"
	"time"
)

// Kind names what a record holds.
type Kind string

// Kinds of record and the type of each body.
const (
	KindAttestation Kind = "attestation" // Attestation
	KindScan        Kind = "scan"        // Scan
	KindEvent       Kind = "event"       // Event
	KindStatus      Kind = "status"      // Status
	KindBaseline    Kind = "baseline"    // Baseline
)

// Record is one piece of evidence from an agent. Seq starts at 1 and rises by
// one per record of a spool for ever: it comes from the agent's durable spool
// and survives restarts. The verifier stores a record durably before it
// acknowledges it, takes a repeated Seq as the same record, and treats a
// missing one as a loss: an alert and a rescan.
type Record struct {
	Seq  uint64          `json:"seq"`
	Kind Kind            `json:"kind"`
	Time time.Time       `json:"time"` // when it was observed, by the agent's clock
	Body json.RawMessage `json:"body"`
}

// RecordsRequest is the body of POST /v1/agent/records: records in rising
// order of Seq. Spool is a random name that the agent gives its spool when it
// creates it (see CheckName); the numbers count within it. A second spool of
// the same agent means that the first was lost, which is itself told.
type RecordsRequest struct {
	Spool   string   `json:"spool"`
	Records []Record `json:"records"`
}

// RecordsReply answers it. Every record up to and including Acked is durable
// and may be dropped from the spool.
type RecordsReply struct {
	Acked uint64   `json:"acked"`
	Need  []Digest `json:"need,omitempty"` // bodies to PUT at /v1/agent/bodies/{digest}
}

// Attestation is the answer to an "attest" command. Evidence is the JSON of
// attest.Evidence; large parts of it may be replaced by Logs.
type Attestation struct {
	Target   string          `json:"target"`
	Nonce    Nonce           `json:"nonce"`
	Evidence json.RawMessage `json:"evidence"`
}

// Scan is one out-of-band measurement of a target. Observations are the
// canonical bytes of measure.Observations; the quote's qualifying data is
// measure.Bind(Nonce, Observations).
type Scan struct {
	Target       string `json:"target"`
	Nonce        Nonce  `json:"nonce"`
	Observations []byte `json:"observations"`
	Quote        []byte `json:"quote"`     // TPMS_ATTEST (part 2, 10.12.12)
	Signature    []byte `json:"signature"` // TPMT_SIGNATURE (part 2, 11.3.4)
	AKPublic     []byte `json:"ak_public"` // TPMT_PUBLIC; must be the enrolled one
	// Error is set, and the four fields above are empty, when the trigger
	// arrived but nothing could be measured. It never becomes a pass.
	Error string `json:"error,omitempty"`
}

// Event is one file operation seen in a target. Sequence counts the target's
// events from 1 within one Stream; a gap is a loss. A new Stream begins when
// the watch was restarted: what happened in between was not seen.
type Event struct {
	Target   string          `json:"target"`
	Stream   string          `json:"stream"`
	Sequence uint64          `json:"sequence"`
	Event    json.RawMessage `json:"event"` // filewatch.Event
	// Object is the object as found on disk (baseline.Record as JSON). It is
	// set when Follows is, and with an event that was concluded from the disk;
	// absent then when the object could not be read, and the event's verdict
	// says why.
	Object json.RawMessage `json:"object,omitempty"`
	// Follows is the Sequence of an earlier event that this one completes; 0
	// for an event of its own.
	Follows uint64 `json:"follows,omitempty"`
	// Absent says why an event that was concluded from the disk has no Object; an event
	// with neither is not measured, and its verdict says why.
	Absent Absence `json:"absent,omitempty"`
}

// Absence is why no object is at the path of an event.
type Absence string

// The reasons.
const (
	AbsentGone  Absence = "gone"  // nothing is there
	AbsentTaken Absence = "taken" // another object is, of which an event of its own tells
)

// AgentState is what an agent says of itself or of a target's machine.
type AgentState string

// States an agent reports.
const (
	AgentStarted     AgentState = "started"     // the agent began; the verifier asks it to attest
	AgentRunning     AgentState = "running"     // a heartbeat
	AgentStopping    AgentState = "stopping"    // an orderly end
	TargetRebooting  AgentState = "rebooting"   // the target's machine is being reset
	TargetRunning    AgentState = "target-up"   // the target's machine runs again
	TargetOff        AgentState = "target-off"  // the target's machine is powered off
	CommandFailed    AgentState = "failed"      // Command could not be carried out: Detail
	WatchStarted     AgentState = "watching"    // file operations of Target are watched from now on: Detail is the stream, Source how
	WatchInterrupted AgentState = "watch-ended" // they no longer are: Detail
	WatchNotice      AgentState = "watch-note"  // something the watch cannot see, or lost: Detail
)

// Status is a remark of the agent. Target is empty when it concerns the agent
// itself.
type Status struct {
	State   AgentState `json:"state"`
	Target  string     `json:"target,omitempty"`
	Version string     `json:"version,omitempty"` // of the agent
	BootID  string     `json:"boot_id,omitempty"` // changes with each boot of the reporting machine
	Command uint64     `json:"command,omitempty"`
	Detail  string     `json:"detail,omitempty"`
	// Source says how file operations are watched: "trap", "disk". Empty is "trap".
	Source string `json:"source,omitempty"`
	// Lost counts events of Target that will never come, as the watch knows, from number
	// First on.
	First uint64 `json:"first,omitempty"`
	Lost  uint64 `json:"lost,omitempty"`
}

// Baseline says that a manifest of the target's files was captured. The
// manifest is the body named by Manifest (baseline file format, compressed).
type Baseline struct {
	Target   string `json:"target"`
	Command  uint64 `json:"command,omitempty"`
	Manifest Digest `json:"manifest"`
	Objects  int64  `json:"objects"`
}
