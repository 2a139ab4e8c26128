package attest

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// Explanation is what evidence tells of a boot, in words. Where Verified is
// false the words are claims that nothing backs.
type Explanation struct {
	// Verified reports whether the quote's signature and values fit together;
	// whose key signed and when is for [Verify].
	Verified bool   `json:"verified"`
	Problem  string `json:"problem,omitempty"` // why not

	Claims Claims           `json:"claims"`
	Events []ExplainedEvent `json:"events,omitempty"`
	Files  []ExplainedFile  `json:"files,omitempty"`
}

// ExplainedEvent is an event of the TCG log.
type ExplainedEvent struct {
	Event  int    `json:"event"`
	PCR    int    `json:"pcr"`
	Type   string `json:"type"`
	Digest Hex    `json:"digest,omitempty"`
	// Proved: the log leads to the quoted value of this event's PCR. Bound:
	// besides, the words come from data that the digest covers.
	Proved bool   `json:"proved"`
	Bound  bool   `json:"bound"`
	Words  string `json:"words"`
}

// ExplainedFile is an entry of the IMA list.
type ExplainedFile struct {
	Entry     int    `json:"entry"`
	File      string `json:"file"`
	Digest    string `json:"digest"`
	Violation bool   `json:"violation,omitempty"`
	Proved    bool   `json:"proved"` // covered by the quote
}

// Explain reads evidence without a policy. A log that is damaged is explained
// as far as it goes, and the error, which wraps that of attest/eventlog,
// attest/ima or attest/userlog, comes beside the explanation.
func Explain(ev *Evidence) (*Explanation, error) {
	a := read(ev, banks...)
	x := &Explanation{Verified: a.quoteErr == nil}
	if a.quoteErr != nil {
		x.Problem = a.quoteErr.Error()
	} else {
		x.Claims = a.claims(nil)
	}
	x.Events = a.explainEvents()
	if a.list != nil {
		for i := range a.list.Entries {
			e := &a.list.Entries[i]
			x.Files = append(x.Files, ExplainedFile{
				Entry: i, File: e.Path, Digest: fmt.Sprintf("%s:%x", e.Algorithm, e.Digest),
				Violation: e.Violation(), Proved: a.coveredErr == nil && i < a.covered,
			})
		}
	}
	return x, errors.Join(a.logErr, a.listErr, a.userErr)
}

func (a *appraisal) explainEvents() []ExplainedEvent {
	if a.log == nil {
		return nil
	}
	algorithm := a.algorithm
	if algorithm == "" { // no verified quote: show the log's best bank
		algorithm = "sha256"
	}
	bank := eventlog.Bank(algorithm)
	var out []ExplainedEvent
	for i := range a.log.Events {
		e := &a.log.Events[i]
		x := ExplainedEvent{Event: i, PCR: e.PCR, Type: e.Type.String(), Digest: e.Digest(bank), Words: e.Describe()}
		if e.Type != eventlog.NoAction {
			x.Proved = a.reproduced(e.PCR)
			x.Bound = e.Bound(bank)
		}
		out = append(out, x)
	}
	return out
}
