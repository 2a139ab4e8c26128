package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// boundTypes are the event types whose digest is, by PFP 10.4.1, the hash of the
// event's data. An event of these types that is not bound was edited.
var boundTypes = map[eventlog.Type]bool{
	eventlog.Separator:            true,
	eventlog.EFIAction:            true,
	eventlog.CRTMVersion:          true,
	eventlog.GPT:                  true,
	eventlog.VariableDriverConfig: true,
	eventlog.VariableAuthority:    true,
}

// imaPCR is where Linux's IMA measures (CONFIG_IMA_MEASURE_PCR_IDX).
const imaPCR = 10

// checkEventLog asks whether the log leads to the quoted PCRs.
//
// It proves that the digests in the log are those that were extended, in that
// order and none left out. It does not prove the events' types and the data
// that no digest covers; the checks that use those say how they protect
// themselves.
func (a *appraisal) checkEventLog() *Check {
	c := &Check{Name: CheckEventLog, Outcome: Pass}
	switch {
	case a.quoteErr != nil:
		c.Outcome, c.Reason = NotMeasured, "the quote does not verify"
		return c
	case len(a.ev.EventLog) == 0:
		c.Outcome, c.Reason = NotMeasured, a.missing("event_log")
		return c
	case a.logErr != nil:
		c.fail(a.damage())
	}
	if a.replay == nil {
		return c
	}
	for pcr := range 24 {
		if pcr != imaPCR {
			a.checkRegister(c, pcr)
		}
	}
	a.checkBindings(c)
	if a.userErr != nil {
		c.fail(Finding{Log: "user", Explanation: a.userErr.Error()})
	}
	if c.Outcome == Pass {
		c.Reason = fmt.Sprintf("%d events lead to the quoted PCRs", len(a.log.Events))
	}
	return c
}

func (a *appraisal) missing(log string) string {
	if why := a.ev.Missing[log]; why != "" {
		return "the evidence has none: " + clip(why)
	}
	return "the evidence has none"
}

func (a *appraisal) damage() Finding {
	f := Finding{Log: "tcg", Explanation: a.logErr.Error()}
	if a.log != nil {
		f.Event = number(len(a.log.Events))
	}
	return f
}

// checkRegister compares one PCR with its replay.
func (a *appraisal) checkRegister(c *Check, pcr int) {
	value, quoted := a.pcrs[pcr]
	register := a.replay[pcr]
	switch {
	case !quoted && pcr <= 7:
		c.unmeasured(Finding{PCR: number(pcr), Explanation: fmt.Sprintf("the quote does not cover PCR %d, so nothing proves its events", pcr)})
	case !quoted:
	case register.Events == 0 && pcr <= 7:
		// Every UEFI firmware that measures puts at least a separator there.
		c.fail(Finding{Log: "tcg", PCR: number(pcr), Observed: value.String(),
			Explanation: fmt.Sprintf("the log has no event for PCR %d: the firmware did not measure, or its entries were removed", pcr)})
	case a.reproduced(pcr):
	case register.Events == 0:
		c.unmeasured(Finding{PCR: number(pcr), Observed: value.String(),
			Explanation: fmt.Sprintf("PCR %d was extended by something that no log tells of", pcr)})
	default:
		c.fail(Finding{Log: "tcg", PCR: number(pcr), Expected: value.String(), Observed: Hex(register.Value).String(),
			Explanation: fmt.Sprintf("the log's %d events for PCR %d do not lead to the quoted value: an event was removed, added or edited", register.Events, pcr)})
	}
}

// checkBindings finds events whose data was edited after it was measured.
func (a *appraisal) checkBindings(c *Check) {
	bank := eventlog.Bank(a.algorithm)
	for i := range a.log.Events {
		e := &a.log.Events[i]
		if boundTypes[e.Type] && !e.Bound(bank) {
			f := eventFinding(e)
			f.Observed = Hex(e.Digest(bank)).String()
			f.Explanation = fmt.Sprintf("the data of %s (%s) is not what was measured", e.Type, e.Describe())
			c.fail(f)
		}
	}
}

// eventFinding starts a finding about an event.
func eventFinding(e *eventlog.Event) Finding {
	return Finding{Log: "tcg", Event: number(e.Index), PCR: number(e.PCR)}
}

func number(n int) *int { return &n }

// hashBytes hashes parts with the hash of a bank that chooseBank accepts.
func hashBytes(algorithm string, parts ...[]byte) []byte {
	h := sha256.New()
	switch algorithm {
	case "sha384":
		h = sha512.New384()
	case "sha512":
		h = sha512.New()
	}
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func contains(list []Hex, want []byte) bool {
	for _, h := range list {
		if bytes.Equal(h, want) {
			return true
		}
	}
	return false
}

// oneOf lists what was allowed, shortened for a finding.
func oneOf(list []Hex) string {
	const most = 4
	var words []string
	for _, h := range list[:min(len(list), most)] {
		words = append(words, h.String())
	}
	if len(list) > most {
		words = append(words, fmt.Sprintf("%d more", len(list)-most))
	}
	return strings.Join(words, " or ")
}
