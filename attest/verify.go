package attest

import (
	"bytes"
	"cmp"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
	"github.com/plumbline-sec/plumbline/attest/ima"
)

// VerifyOptions is what the verifier knows beside the evidence.
type VerifyOptions struct {
	// Nonce is the challenge that was given out. Without one freshness is
	// not measured and the result is at best incomplete.
	Nonce []byte

	// AK is the TPMT_PUBLIC enrolled for this machine. Without one, and with
	// no AK in the policy, whose TPM this is is not measured.
	AK []byte
}

// Verify appraises evidence against a policy. It is pure: equal arguments give
// equal results. The error is for a policy that cannot be used ([ErrPolicy]);
// whatever is wrong with the evidence is in the result.
func Verify(ev *Evidence, policy *Policy, opts VerifyOptions) (*Result, error) {
	if err := policy.validate(); err != nil {
		return nil, err
	}
	a := read(ev, cmp.Or(policy.TPM.Bank, "sha256"))
	r := &Result{Policy: policy.Name}
	r.add(a.checkQuote())
	r.add(a.checkNonce(opts.Nonce))
	r.add(a.checkKey(opts.AK, policy.TPM.AK))
	r.add(a.checkEventLog())
	r.add(a.checkSecureBoot(&policy.SecureBoot))
	r.add(a.checkBoot(policy.Boot))
	r.add(a.checkFirmware(&policy.Firmware, &policy.TPM))
	r.add(a.checkPCRs(policy.PCRs))
	r.add(a.checkIMA(&policy.IMA))
	if a.quoteErr == nil {
		r.Claims = a.claims(policy.Boot)
	}
	r.Decide()
	return r, nil
}

// add takes a check that the policy or the evidence gave reason for.
func (r *Result) add(c *Check) {
	if c != nil {
		r.Checks = append(r.Checks, *c)
	}
}

// appraisal is evidence read once for all checks.
type appraisal struct {
	ev *Evidence

	quote    *Quote
	quoteErr error

	algorithm string      // of the bank that is appraised
	pcrs      map[int]Hex // its quoted values; empty when the quote does not verify

	log    *eventlog.Log // as much as could be read; nil without one
	logErr error
	replay map[int]eventlog.Register

	// user is what user space extended after the firmware's log ends, as far as
	// the quote covers it: out of systemd's log, or guessed boot phases.
	user    map[int][]userEvent
	userErr error

	list        *ima.List
	listErr     error
	covered     int // entries of list that the quote covers
	coveredErr  error
	quotedPCR10 bool
}

// banks are the PCR banks that can be appraised, the usual one first. SHA-1 is
// not among them: its collisions let two images share a digest.
var banks = []string{"sha256", "sha384", "sha512"}

// read verifies the quote and replays the logs; it judges nothing. The first of
// the given banks that is quoted is read.
func read(ev *Evidence, banks ...string) *appraisal {
	a := &appraisal{ev: ev}
	a.quote, a.quoteErr = verifyQuote(ev.AK, ev.Quote, ev.Signature)
	if a.quoteErr == nil {
		a.quoteErr = a.quote.CheckPCRs(ev.Banks)
	}
	if a.quoteErr == nil {
		a.quoteErr = a.chooseBank(banks)
	}
	a.readEventLog()
	a.readIMA()
	return a
}

func (a *appraisal) chooseBank(banks []string) error {
	for _, algorithm := range banks {
		if values := findBank(a.ev.Banks, algorithm); len(values) > 0 {
			a.algorithm, a.pcrs = algorithm, values
			return nil
		}
	}
	return fmt.Errorf("the quote does not cover the bank %s", strings.Join(banks, ", "))
}

func (a *appraisal) readEventLog() {
	if len(a.ev.EventLog) == 0 {
		return
	}
	a.log, a.logErr = eventlog.Parse(a.ev.EventLog)
	if a.log == nil || a.quoteErr != nil {
		return
	}
	replay, err := a.log.Replay(eventlog.Bank(a.algorithm))
	if err != nil {
		a.logErr = errors.Join(a.logErr, err)
		return
	}
	a.replay = replay
	a.readUserLog()
}

// reproduced reports whether the log leads to the quoted value of a PCR.
func (a *appraisal) reproduced(pcr int) bool {
	value, quoted := a.pcrs[pcr]
	register, replayed := a.replay[pcr]
	if !quoted || !replayed {
		return false
	}
	return bytes.Equal(value, register.Value) || a.user[pcr] != nil
}

func (a *appraisal) checkQuote() *Check {
	if a.quoteErr != nil {
		return &Check{Name: CheckQuote, Outcome: Fail, Findings: []Finding{{
			Explanation: a.quoteErr.Error(),
		}}}
	}
	count := 0
	for _, s := range a.quote.Selections {
		count += len(s.PCRs)
	}
	return &Check{Name: CheckQuote, Outcome: Pass, Reason: fmt.Sprintf("signed by a TPM, %d PCR values", count)}
}

func (a *appraisal) checkNonce(nonce []byte) *Check {
	c := &Check{Name: CheckNonce, Outcome: Pass}
	switch {
	case a.quote == nil:
		c.Outcome, c.Reason = NotMeasured, "the quote does not verify"
	case len(nonce) == 0 && !bytes.Equal(a.quote.Qualifying, a.ev.Nonce):
		c.fail(Finding{Expected: a.ev.Nonce.String(), Observed: a.quote.Qualifying.String(),
			Explanation: "the quote answers another nonce than the evidence says"})
	case len(nonce) == 0:
		c.Outcome, c.Reason = NotMeasured, "no nonce was given: this may be the replay of an old quote"
	case subtle.ConstantTimeCompare(a.quote.Qualifying, nonce) != 1:
		c.fail(Finding{Expected: Hex(nonce).String(), Observed: a.quote.Qualifying.String(),
			Explanation: "the quote answers another nonce: it is a replay, or meant for someone else"})
	}
	return c
}

func (a *appraisal) checkKey(enrolled []byte, allowed []Hex) *Check {
	c := &Check{Name: CheckKey, Outcome: Pass}
	name, err := Name(a.ev.AK)
	switch {
	case err != nil:
		c.fail(Finding{Explanation: err.Error()})
	case len(enrolled) == 0 && len(allowed) == 0:
		c.Outcome, c.Reason = NotMeasured, "no enrolled key was given: this may be any TPM"
	case len(enrolled) > 0 && !bytes.Equal(enrolled, a.ev.AK):
		want, _ := Name(enrolled)
		c.fail(Finding{Expected: want.String(), Observed: name.String(),
			Explanation: "the quote is signed by another key than the enrolled one"})
	case len(allowed) > 0 && !contains(allowed, name):
		c.fail(Finding{Expected: oneOf(allowed), Observed: name.String(),
			Explanation: "the quote is signed by a key that the policy does not list"})
	}
	return c
}

// maxFindings bounds what one check reports of hostile evidence.
const maxFindings = 1000

// fail adds a finding and turns the check into a failed one.
func (c *Check) fail(f Finding) {
	c.Outcome = Fail
	switch {
	case len(c.Findings) < maxFindings:
		c.Findings = append(c.Findings, f)
	case len(c.Findings) == maxFindings:
		c.Findings = append(c.Findings, Finding{Explanation: fmt.Sprintf("more than %d findings; the rest is not listed", maxFindings)})
	}
}

// unmeasured notes something that keeps the check from passing and is no
// proof of anything wrong.
func (c *Check) unmeasured(f Finding) {
	if c.Outcome != Fail {
		c.Outcome = NotMeasured
	}
	if c.Reason == "" {
		c.Reason = f.Explanation
	}
	c.Findings = append(c.Findings, f)
}
