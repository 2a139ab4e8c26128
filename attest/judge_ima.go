package attest

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/attest/ima"
)

// bootAggregate is the label of the list's first entry.
const bootAggregate = "boot_aggregate"

func (a *appraisal) readIMA() {
	if len(a.ev.IMALog) > 0 {
		a.list, a.listErr = ima.Parse(a.ev.IMALog)
	}
	value, quoted := a.pcrs[imaPCR]
	a.quotedPCR10 = quoted
	if a.list == nil || !quoted {
		return
	}
	a.covered, a.coveredErr = a.list.Match(cryptoHash(a.algorithm), imaPCR, value)
}

func cryptoHash(algorithm string) crypto.Hash {
	return map[string]crypto.Hash{
		"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512,
	}[algorithm]
}

// checkIMA asks whether the kernel's list leads to the quoted PCR 10 and
// whether the files in it are allowed; nil when there is no list, no trace of
// one in the PCR, and the policy does not ask.
//
// It proves that a file of that path and content was used, in the part of the
// list that the quote covers. It proves nothing about files that IMA's own
// policy does not measure, nor about a kernel that stopped measuring.
func (a *appraisal) checkIMA(p *IMAPolicy) *Check {
	c := &Check{Name: CheckIMA, Outcome: Pass}
	value := a.pcrs[imaPCR]
	switch {
	case a.list == nil && p.Required:
		c.fail(Finding{Log: "ima", Explanation: "the policy requires an IMA list: " + a.missing("ima_log")})
	case a.list == nil && len(p.Files) == 0 && bytes.Count(value, []byte{0}) == len(value):
		return nil
	case a.list == nil:
		c.Outcome, c.Reason = NotMeasured, a.missing("ima_log")
	case a.quoteErr != nil:
		c.Outcome, c.Reason = NotMeasured, "the quote does not verify"
	case !a.quotedPCR10:
		c.Outcome, c.Reason = NotMeasured, "the quote does not cover PCR 10"
	case a.coveredErr != nil:
		c.fail(a.unmatchedList(value))
	default:
		a.checkEntries(c, p)
	}
	return c
}

func (a *appraisal) unmatchedList(value Hex) Finding {
	f := Finding{Log: "ima", PCR: number(imaPCR), Expected: value.String(), Explanation: a.coveredErr.Error() +
		": an entry was removed, added or edited"}
	if a.listErr != nil {
		f.Event = number(len(a.list.Entries))
		f.Explanation = a.listErr.Error()
	}
	return f
}

// checkEntries judges the entries that the quote covers.
func (a *appraisal) checkEntries(c *Check, p *IMAPolicy) {
	entries := a.list.Entries[:a.covered]
	if len(entries) == 0 {
		c.unmeasured(Finding{Log: "ima", PCR: number(imaPCR), Explanation: "the quote covers no entry: IMA had not started"})
		return
	}
	a.checkAggregate(c, &entries[0])
	for i := range entries {
		if f := p.judge(&entries[i]); f != nil {
			c.fail(*f)
		}
	}
	if c.Outcome == Pass {
		c.Reason = fmt.Sprintf("%d entries lead to the quoted PCR 10, %d came later", len(entries), len(a.list.Entries)-len(entries))
	}
}

// checkAggregate ties the list to this boot's firmware measurements.
func (a *appraisal) checkAggregate(c *Check, first *ima.Entry) {
	if first.Path != bootAggregate || first.Violation() {
		f := entryFinding(first)
		f.Expected = bootAggregate
		f.Explanation = "the list does not start with the digest of the boot PCRs"
		c.fail(f)
		return
	}
	bank := findBank(a.ev.Banks, first.Algorithm)
	values := make(map[int][]byte, len(bank))
	for pcr, value := range bank {
		values[pcr] = value
	}
	h := cryptoHash(first.Algorithm)
	if !h.Available() {
		return
	}
	want, ok := ima.Aggregate(h, values)
	if ok && !bytes.Equal(want, first.Digest) {
		f := entryFinding(first)
		f.Expected, f.Observed = hex.EncodeToString(want), hex.EncodeToString(first.Digest)
		f.Explanation = "the kernel saw other boot PCRs than the quote: something extended PCR 0 to 9 after the kernel started"
		c.fail(f)
	}
}

// judge says what is wrong with an entry, nil if nothing is.
func (p *IMAPolicy) judge(e *ima.Entry) *Finding {
	if e.Index == 0 || !p.asks() { // the first is the boot aggregate: checkAggregate
		return nil
	}
	f := entryFinding(e)
	if e.Violation() {
		if p.AllowViolations {
			return nil
		}
		f.Explanation = "the file was written while it was measured, so no digest stands for what was used"
		return &f
	}
	if len(p.Files) == 0 || slices.ContainsFunc(p.Exclude, func(glob string) bool { return matchGlob(glob, e.Path) }) {
		return nil
	}
	f.Observed = e.Algorithm + ":" + hex.EncodeToString(e.Digest)
	allowed, listed := p.Files[e.Path]
	switch {
	case e.Path == "":
		f.Explanation = fmt.Sprintf("an entry of template %s, which names no file", e.Template)
	case !listed:
		f.Explanation = "the policy does not list this file"
	case !slices.Contains(allowed, f.Observed):
		f.Expected = allowed[0]
		if len(allowed) > 1 {
			f.Expected += fmt.Sprintf(" or %d more", len(allowed)-1)
		}
		f.Explanation = "the file's content is not one that the policy lists"
	default:
		return nil
	}
	return &f
}

func entryFinding(e *ima.Entry) Finding {
	return Finding{Log: "ima", Event: number(e.Index), PCR: number(e.PCR), File: clip(e.Path)}
}
