package remote

import (
	"encoding/json"
	"time"
)

// State is what the verifier holds of a machine.
type State string

// States of a machine. Unreachable is stale, never untrusted.
const (
	StateTrusted   State = "trusted"
	StateUntrusted State = "untrusted"
	StateStale     State = "stale"
	StateRebooting State = "rebooting"
	StateUnknown   State = "unknown"
)

// Outcome of an appraisal: measure.Outcome and attest's have these values.
const (
	OutcomePass       = "pass"
	OutcomeFail       = "fail"
	OutcomeIncomplete = "incomplete"
)

// Machine is one host or target as GET /v1/hosts lists it.
type Machine struct {
	Name       string    `json:"name"`
	Role       Role      `json:"role"`
	MeasuredBy string    `json:"measured_by,omitempty"` // the host whose agent reports about it from outside
	State      State     `json:"state"`
	Reasons    []string  `json:"reasons"` // why, in words, most important first
	Since      time.Time `json:"since"`   // when State last changed
	Enrolment  Enrolment `json:"enrolment,omitzero"`
	LastSeen   time.Time `json:"last_seen,omitzero"` // last record of its own agent, or about it
	Boot       Activity  `json:"boot"`
	Scan       Activity  `json:"scan"`
	Files      Files     `json:"files"`
	// Retired is nil for a machine in service. Of a retired one Name is Retired.ID, and
	// all else is as it was when it was retired.
	Retired *Retirement `json:"retired,omitempty"`
}

// Retirement says that a machine was taken out of service, and by whom.
type Retirement struct {
	ID     string    `json:"id"`   // its record is kept under it: Name, "~" and digits
	Name   string    `json:"name"` // that it had, and that another may have now
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	// ReplacedBy is the EK digest of the TPM that was accepted in its place by the same
	// decision.
	ReplacedBy string `json:"replaced_by,omitempty"`
}

// Justified is the body of a request that takes a machine out of service, or back.
type Justified struct {
	Reason string `json:"reason"` // required; kept with the decision
}

// Enrolment says how a machine's TPM was accepted.
type Enrolment struct {
	Approval string    `json:"approval"` // "ca", "digest" or "operator"
	Detail   string    `json:"detail"`   // the issuer, the list's label, or who approved
	At       time.Time `json:"at"`
	EKDigest string    `json:"ek_digest"` // SHA-256 of the EK's TPMT_PUBLIC
	Serial   string    `json:"serial"`    // of the client certificate
}

// Activity is the history of one recurring duty: attestation or scan.
type Activity struct {
	Enabled     bool      `json:"enabled"` // false: not configured for this machine, see Missing
	Missing     string    `json:"missing,omitempty"`
	Outcome     string    `json:"outcome,omitempty"` // of the last appraisal
	ID          string    `json:"id,omitempty"`      // of the last appraisal
	LastAttempt time.Time `json:"last_attempt,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"` // evidence arrived and was appraised, whatever the outcome
	Next        time.Time `json:"next,omitzero"`
	Error       string    `json:"error,omitempty"` // of the last attempt, e.g. "no report within 60s"
}

// Files is what is known of a machine's files.
type Files struct {
	Watched    bool      `json:"watched"`
	Baseline   string    `json:"baseline,omitempty"` // digest of the signed manifest
	Objects    int64     `json:"objects,omitempty"`
	BaselineAt time.Time `json:"baseline_at,omitzero"`
	Origin     string    `json:"origin,omitempty"` // how the baseline came to be, in words
	Violations int       `json:"violations"`       // open review items
	// Unmeasured counts what could not be compared when all files were last read.
	Unmeasured int `json:"unmeasured,omitempty"`
	// Accepted are parts that could not be read and that people accepted as such: they are
	// not in Unmeasured.
	Accepted  []AcceptedGap `json:"accepted_gaps,omitempty"`
	Events    int64         `json:"events"`
	LastEvent time.Time     `json:"last_event,omitzero"`
}

// AcceptedGap is a part of a machine that is not measured by somebody's decision.
type AcceptedGap struct {
	ID     string    `json:"id"`     // of the review item; rejecting it takes the decision back
	What   string    `json:"what"`   // a volume, a partition, a directory
	Reason string    `json:"reason"` // it could not be read
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Why    string    `json:"why"` // it was accepted
}

// MachineDetail answers GET /v1/hosts/{name}.
type MachineDetail struct {
	Machine
	Appraisal *Appraisal  `json:"appraisal,omitempty"` // of the present boot
	Scans     []ScanEntry `json:"scans"`               // newest first
	Events    []FileEvent `json:"events"`              // newest first
	Review    []Review    `json:"review"`              // open ones
	Timeline  []Moment    `json:"timeline"`            // newest first
	// Former are the machines that had the name before and were retired, newest first.
	Former []Retirement `json:"former,omitempty"`
}

// Appraisal is the verdict on one attestation. Result is attest.Result.
type Appraisal struct {
	ID       string          `json:"id"`
	Machine  string          `json:"machine"`
	Outcome  string          `json:"outcome"`
	At       time.Time       `json:"at"`
	Policy   string          `json:"policy,omitempty"` // name of the policy applied
	Boot     []string        `json:"boot,omitempty"`   // what booted, in words
	Result   json.RawMessage `json:"result,omitempty"`
	Evidence Digest          `json:"evidence,omitzero"` // body with the evidence as received
	Error    string          `json:"error,omitempty"`   // why nothing could be appraised
}

// ScanState says how far a scan is.
type ScanState string

// States of a scan.
const (
	ScanQueued   ScanState = "queued"    // waits for an earlier scan of the machine
	ScanFired    ScanState = "fired"     // the BMC took the nonce, no report yet
	ScanWaiting  ScanState = "waiting"   // reported, pages asked for
	ScanJudged   ScanState = "judged"    // Outcome is set
	ScanNoReport ScanState = "no-report" // nothing came in time: stale, not untrusted
	ScanRefused  ScanState = "refused"   // a report came and was not believed: Error says why
	ScanFailed   ScanState = "failed"    // the BMC could not be reached or refused: Error
)

// ScanEntry is one scan of a machine. Report is measure.Report.
type ScanEntry struct {
	ID         string          `json:"id"` // the first 16 hexadecimal digits of the nonce
	Machine    string          `json:"machine"`
	Cause      string          `json:"cause"` // "schedule", "rescan", or who asked
	State      ScanState       `json:"state"`
	Outcome    string          `json:"outcome,omitempty"`
	FiredAt    time.Time       `json:"fired_at"`
	ReportedAt time.Time       `json:"reported_at,omitzero"`
	JudgedAt   time.Time       `json:"judged_at,omitzero"`
	MeasuredBy string          `json:"measured_by,omitempty"`
	HostState  State           `json:"host_state,omitempty"` // of the measuring host when judged
	HostBoot   string          `json:"host_boot,omitempty"`  // in words
	Report     json.RawMessage `json:"report,omitempty"`
	Error      string          `json:"error,omitempty"`
}

// Done says whether nothing more will happen to the scan.
func (s *ScanEntry) Done() bool {
	return s.State != ScanQueued && s.State != ScanFired && s.State != ScanWaiting
}

// FileEvent is one file operation as stored and judged.
type FileEvent struct {
	ID       string          `json:"id"`
	Machine  string          `json:"machine"`
	Sequence uint64          `json:"sequence"`
	Time     time.Time       `json:"time"`           // in the target, by the watching host's clock
	Since    time.Time       `json:"since,omitzero"` // it was done between Since and Time, where nobody saw it done
	Received time.Time       `json:"received"`       // by the verifier's clock
	Op       string          `json:"op"`
	Path     string          `json:"path"`
	NewPath  string          `json:"new_path,omitempty"`
	Actor    string          `json:"actor"` // in words: name, pid, uid, or why it is not known
	Level    string          `json:"level"`
	Verdict  string          `json:"verdict"` // see Verdict constants
	Detail   string          `json:"detail,omitempty"`
	Event    json.RawMessage `json:"event"` // filewatch.Event (OCSF 1001)
	// Changes are the attributes that differ from the baseline, once known.
	Changes json.RawMessage `json:"changes,omitempty"`
}

// Verdicts on a file event.
const (
	VerdictPending   = "pending"   // the content is not on disk yet, or not read
	VerdictUnchanged = "unchanged" // equals the baseline
	VerdictChanged   = "changed"   // differs from the baseline
	VerdictAdded     = "added"     // not in the baseline
	VerdictRemoved   = "removed"   // in the baseline and gone
	VerdictUnknown   = "unknown"   // no baseline to compare with
	VerdictOvertaken = "overtaken" // a later operation on the object was compared instead
	VerdictRecorded  = "recorded"  // its level asks for no comparison
)

// Review is one thing that waits for a person: a changed file, a machine that asks to
// be enrolled, or one that asks for the name of another.
type Review struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // "file", "gap", "enrolment" or "replacement"
	Machine string    `json:"machine"`
	Subject string    `json:"subject"` // path, what could not be read, or the EK digest
	Summary string    `json:"summary"`
	Detail  string    `json:"detail,omitempty"`
	Level   string    `json:"level,omitempty"`
	Count   int       `json:"count"` // events behind it
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	// State is open, accepted, rejected, restored (the object is again as in
	// the baseline), replaced (by a new baseline, or a new request) or retired (its
	// machine was).
	State string `json:"state"`
	// Rejected says that a person called the change wrong. A file's item stays
	// open, and the machine untrusted, until the file is restored.
	Rejected  bool      `json:"rejected,omitempty"`
	DecidedBy string    `json:"decided_by,omitempty"`
	DecidedAt time.Time `json:"decided_at,omitzero"`
	Reason    string    `json:"reason,omitempty"`
	// Changes is the change as "baseline check" prints it.
	Changes json.RawMessage `json:"changes,omitempty"`
}

// Decision is the body of POST /v1/review/{id}.
type Decision struct {
	Accept bool   `json:"accept"` // false rejects
	Reason string `json:"reason"` // required
}

// Severity of a moment; alert sinks choose by it.
type Severity string

// Severities, rising.
const (
	SeverityInfo    Severity = "info"
	SeverityNotice  Severity = "notice"
	SeverityWarning Severity = "warning"
	SeverityAlert   Severity = "alert"
)

// Moment is one line of a machine's timeline, and of the stream.
type Moment struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Machine  string    `json:"machine,omitempty"`
	Kind     string    `json:"kind"` // enrolment, retirement, boot, scan, file, state, loss, agent, review
	Severity Severity  `json:"severity"`
	Text     string    `json:"text"`
	Ref      string    `json:"ref,omitempty"` // id of the scan, appraisal or event
}

// Notice is the data of one event of GET /v1/stream. The event's name says
// what changed: machine, scan, event, review, moment or appraisal.
type Notice struct {
	ID      string `json:"id"`
	Machine string `json:"machine,omitempty"`
}
