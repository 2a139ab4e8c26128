package attest

import (
	"bytes"
	"fmt"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// secureBoot is what PCR 7 proves of UEFI Secure Boot.
type secureBoot struct {
	on        *bool
	variables map[string][]eventlog.Signature // PK, KEK, db, dbx
	event     map[string]*eventlog.Event      // where each was measured, and SecureBoot
	problems  []Finding
}

// checkSecureBoot asks whether Secure Boot was on, with keys that the policy
// allows; nil when the policy does not ask.
//
// It proves the variables as the firmware measured them before it started
// anything else. A firmware that measures one thing and enforces another is
// out of its sight.
func (a *appraisal) checkSecureBoot(p *SecureBootPolicy) *Check {
	if !p.asks() {
		return nil
	}
	c := &Check{Name: CheckSecureBoot, Outcome: Pass}
	if !a.reproduced(7) {
		c.Outcome, c.Reason = NotMeasured, "the event log does not lead to the quoted PCR 7"
		return c
	}
	sb := a.readSecureBoot()
	for _, f := range sb.problems {
		c.fail(f)
	}
	sb.checkEnabled(c, p.Required)
	for _, list := range []struct {
		name    string
		allowed []Hex
	}{{"PK", p.PK}, {"KEK", p.KEK}, {"db", p.DB}} {
		if len(list.allowed) > 0 {
			sb.checkAllowed(c, list.name, list.allowed)
		}
	}
	sb.checkRevoked(c, p.DBX)
	if c.Outcome == Pass {
		c.Reason = "Secure Boot's variables are as the policy asks"
	}
	return c
}

// readSecureBoot reads PCR 7's events up to its separator. The type of an event
// is a claim that no digest covers, so each event there must be a variable or
// an action whose data is bound to its digest: one that is not could be a
// disguised variable.
func (a *appraisal) readSecureBoot() *secureBoot {
	sb := &secureBoot{variables: make(map[string][]eventlog.Signature), event: make(map[string]*eventlog.Event)}
	bank := eventlog.Bank(a.algorithm)
	for e := range a.events(7) {
		if e.Type == eventlog.Separator && e.Bound(bank) {
			if !eventlog.SeparatorOK(e.Data) {
				sb.problem(e, "the firmware reports an error in its Secure Boot measurements")
			}
			return sb
		}
		switch {
		case !e.Bound(bank):
			sb.problem(e, fmt.Sprintf("%s in PCR 7 whose data is not what was measured", e.Type))
		case isAction(e):
			// "UEFI Debug Mode", "DMA Protection Disabled": PFP 3.3.4.8.
			sb.problem(e, fmt.Sprintf("the firmware reports %q", e.Text()))
		case e.Type == eventlog.VariableDriverConfig:
			sb.readVariable(e)
		default:
			sb.problem(e, fmt.Sprintf("%s does not belong into PCR 7 before its separator", e.Type))
		}
	}
	return sb
}

func (sb *secureBoot) problem(e *eventlog.Event, explanation string) {
	f := eventFinding(e)
	f.Explanation = explanation
	sb.problems = append(sb.problems, f)
}

func (sb *secureBoot) readVariable(e *eventlog.Event) {
	v, err := e.Variable()
	if err != nil {
		sb.problem(e, err.Error())
		return
	}
	name := v.Name
	if sb.event[name] != nil {
		sb.problem(e, fmt.Sprintf("variable %s is measured twice", name))
		return
	}
	switch {
	case v.Global("SecureBoot"):
		on := len(v.Data) == 1 && v.Data[0] == 1
		sb.on = &on
	case v.Global("PK"), v.Global("KEK"), v.Security("db"), v.Security("dbx"):
		list, err := eventlog.Signatures(v.Data)
		if err != nil {
			sb.problem(e, fmt.Sprintf("%s: %v", name, err))
			return
		}
		sb.variables[name] = list
	default:
		return // dbt, dbr, AuditMode and other variables that the policy has no words for
	}
	sb.event[name] = e
}

func (sb *secureBoot) checkEnabled(c *Check, required bool) {
	if !required {
		return
	}
	if sb.on == nil {
		c.fail(Finding{Log: "tcg", PCR: number(7), Expected: "Secure Boot on",
			Explanation: "the firmware measured no SecureBoot variable"})
		return
	}
	if !*sb.on {
		f := eventFinding(sb.event["SecureBoot"])
		f.Expected, f.Observed = "on", "off"
		f.Explanation = "Secure Boot was off: the firmware started unsigned code without asking"
		c.fail(f)
	}
}

// checkAllowed finds entries of a variable that the policy does not allow.
func (sb *secureBoot) checkAllowed(c *Check, name string, allowed []Hex) {
	e := sb.event[name]
	if e == nil {
		c.fail(Finding{Log: "tcg", PCR: number(7), Expected: oneOf(allowed),
			Explanation: fmt.Sprintf("the firmware measured no variable %s", name)})
		return
	}
	for _, s := range sb.variables[name] {
		if !contains(allowed, s.Digest) {
			f := eventFinding(e)
			f.Expected, f.Observed = oneOf(allowed), Hex(s.Digest).String()
			f.Explanation = fmt.Sprintf("%s holds %s, which the policy does not allow", name, s)
			c.fail(f)
		}
	}
}

// keys lists what the variables hold that say whose code may start.
func (sb *secureBoot) keys() []Key {
	var out []Key
	for _, name := range []string{"PK", "KEK", "db"} {
		for _, s := range sb.variables[name] {
			out = append(out, Key{Variable: name, Kind: s.Kind, Digest: s.Digest, Subject: s.Subject})
		}
	}
	return out
}

// checkRevoked finds revocations that the machine lacks.
func (sb *secureBoot) checkRevoked(c *Check, required []Hex) {
	for _, want := range required {
		found := false
		for _, s := range sb.variables["dbx"] {
			found = found || bytes.Equal(s.Digest, want)
		}
		if !found {
			f := Finding{Log: "tcg", PCR: number(7)}
			if e := sb.event["dbx"]; e != nil {
				f = eventFinding(e)
			}
			f.Expected = want.String()
			f.Explanation = "dbx lacks a revocation that the policy asks for"
			c.fail(f)
		}
	}
}

// isAction reports whether an event is plain text of the firmware: an action
// that is short and printable, so that it cannot be anything else in disguise.
func isAction(e *eventlog.Event) bool {
	if e.Type != eventlog.EFIAction && e.Type != eventlog.Action || len(e.Data) > 256 {
		return false
	}
	for _, b := range bytes.TrimRight(e.Data, "\x00") {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}
