package remote

import "github.com/plumbline-sec/plumbline/baseline"

// CommandKind names what the verifier asks of an agent.
type CommandKind string

// Kinds of command.
const (
	// CommandAttest asks for an Attestation record over Nonce.
	CommandAttest CommandKind = "attest"
	// CommandBaseline asks for a Baseline record of Target: the first one,
	// and the rescan after events were lost.
	CommandBaseline CommandKind = "baseline"
	// CommandBodies asks for the bodies in Digests; a body that is gone is
	// answered by a Status record with CommandFailed.
	CommandBodies CommandKind = "bodies"
	// CommandRescan asks the agent to look at Target's files again and to
	// report what differs from what it last reported.
	CommandRescan CommandKind = "rescan"
)

// Command is one request of the verifier to an agent. A memory scan is never
// among them: its nonce travels through the target's BMC only, so that the
// moment of a scan is not known to the host's software beforehand.
type Command struct {
	ID      uint64      `json:"id"` // rises; see Commands
	Kind    CommandKind `json:"kind"`
	Target  string      `json:"target,omitempty"`
	Nonce   *Nonce      `json:"nonce,omitempty"`
	Digests []Digest    `json:"digests,omitempty"`
	Reason  string      `json:"reason,omitempty"` // for the agent's log
	// Logs, of CommandRescan, are what the baseline has of files that only grow; the
	// manifest's header says where they are.
	Logs []baseline.Log `json:"logs,omitempty"`
}

// Commands answers GET /v1/agent/commands?after=ID&wait=SECONDS. The request
// says that every command up to after has been carried out and may be
// forgotten; it is held for up to wait seconds (at most 60) until there is a
// later one. An agent that restarts asks with after=0 and gets what is open.
type Commands struct {
	Commands []Command `json:"commands"`
}
