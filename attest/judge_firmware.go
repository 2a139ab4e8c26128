package attest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// checkFirmware asks about the platform's firmware and the TPM's own; nil when
// the policy does not.
func (a *appraisal) checkFirmware(p *FirmwarePolicy, tpm *TPMPolicy) *Check {
	if len(p.Versions)+len(p.Blobs)+len(p.Drivers) == 0 && tpm.MinimumFirmware == "" {
		return nil
	}
	c := &Check{Name: CheckFirmware, Outcome: Pass}
	if a.quoteErr != nil {
		c.Outcome, c.Reason = NotMeasured, "the quote does not verify"
		return c
	}
	a.checkTPMFirmware(c, tpm.MinimumFirmware)
	if len(p.Versions)+len(p.Blobs) > 0 {
		a.checkPlatform(c, p)
	}
	if len(p.Drivers) > 0 {
		a.checkDrivers(c, p.Drivers)
	}
	return c
}

func (a *appraisal) checkTPMFirmware(c *Check, minimum string) {
	if minimum == "" {
		return
	}
	least, err := parseTPMFirmware(minimum) // validated with the policy
	if err == nil && a.quote.FirmwareVersion < least {
		c.fail(Finding{Expected: "at least " + minimum, Observed: formatTPMFirmware(a.quote.FirmwareVersion),
			Explanation: "the TPM's firmware is older than the policy asks"})
	}
}

// checkPlatform looks at PCR 0: the version must be bound to its digest, and
// the digests of code must be listed, whatever type the log gives them.
func (a *appraisal) checkPlatform(c *Check, p *FirmwarePolicy) {
	if !a.reproduced(0) {
		c.unmeasured(Finding{PCR: number(0), Explanation: "the event log does not lead to the quoted PCR 0"})
		return
	}
	bank := eventlog.Bank(a.algorithm)
	version := false
	for e := range a.events(0) {
		switch {
		case a.isMarker(e):
		case e.Type == eventlog.CRTMVersion && e.Bound(bank):
			version = true
			if len(p.Versions) > 0 && !slices.Contains(p.Versions, e.Text()) {
				f := eventFinding(e)
				f.Expected, f.Observed = strings.Join(p.Versions, " or "), e.Text()
				f.Explanation = "the firmware's version is not one that the policy lists"
				c.fail(f)
			}
		case len(p.Blobs) > 0 && !contains(p.Blobs, e.Digest(bank)):
			c.fail(a.unknownCode(e, p.Blobs, "firmware code that the policy does not list"))
		}
	}
	if len(p.Versions) > 0 && !version {
		c.fail(Finding{Log: "tcg", PCR: number(0), Expected: strings.Join(p.Versions, " or "),
			Explanation: "the firmware measured no version of itself"})
	}
}

// checkDrivers looks at PCR 2: drivers of add-in cards and other code that is
// not the firmware's own (PFP 3.3.4.3).
func (a *appraisal) checkDrivers(c *Check, allowed []Hex) {
	if !a.reproduced(2) {
		c.unmeasured(Finding{PCR: number(2), Explanation: "the event log does not lead to the quoted PCR 2"})
		return
	}
	for e := range a.events(2) {
		if !a.isMarker(e) && !contains(allowed, e.Digest(eventlog.Bank(a.algorithm))) {
			c.fail(a.unknownCode(e, allowed, "a driver that the policy does not list"))
		}
	}
}

func (a *appraisal) unknownCode(e *eventlog.Event, allowed []Hex, what string) Finding {
	f := eventFinding(e)
	f.File = imagePath(e)
	f.Expected, f.Observed = oneOf(allowed), Hex(e.Digest(eventlog.Bank(a.algorithm))).String()
	f.Explanation = fmt.Sprintf("%s: %s", what, e.Describe())
	return f
}

// formatTPMFirmware writes a firmwareVersion as the four 16-bit groups that
// makers use (TPM_PT_FIRMWARE_VERSION_1 and _2), in hexadecimal.
func formatTPMFirmware(v uint64) string {
	return fmt.Sprintf("%x.%x.%x.%x", uint16(v>>48), uint16(v>>32), uint16(v>>16), uint16(v))
}

func parseTPMFirmware(s string) (uint64, error) {
	groups := strings.Split(s, ".")
	if len(groups) > 4 {
		return 0, fmt.Errorf("firmware version %q has more than four groups", clip(s))
	}
	var v uint64
	for i, g := range groups {
		n, err := strconv.ParseUint(g, 16, 16)
		if err != nil {
			return 0, fmt.Errorf("firmware version %q is not hexadecimal groups of 16 bits", clip(s))
		}
		v |= n << (48 - 16*i)
	}
	return v, nil
}
