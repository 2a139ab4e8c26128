package attest

import (
	"fmt"
	"io"
	"slices"

	"github.com/BurntSushi/toml"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// ReferencePolicy makes a policy that allows exactly what this evidence shows:
// Secure Boot with its keys, the firmware's version, the images started. It
// refuses evidence that does not verify; whether the machine was good when it
// gave the evidence, only its operator knows. IMA is required where the evidence
// has a list; files are not listed, since ordinary use measures new ones.
func ReferencePolicy(ev *Evidence) (*Policy, error) {
	a := read(ev, banks...)
	for _, c := range []*Check{a.checkQuote(), a.checkEventLog()} {
		if c.Outcome == Pass {
			continue
		}
		why := c.Reason
		if len(c.Findings) > 0 {
			why = c.Findings[0].Explanation
		}
		return nil, fmt.Errorf("%w: %s: %s", ErrEvidence, c.Name, why)
	}
	p := &Policy{Name: "as seen"}
	sb := a.readSecureBoot()
	if len(sb.problems) > 0 {
		return nil, fmt.Errorf("%w: %s: %s", ErrEvidence, CheckSecureBoot, sb.problems[0].Explanation)
	}
	if sb.on != nil && *sb.on {
		p.SecureBoot = SecureBootPolicy{Required: true, PK: sb.digests("PK"), KEK: sb.digests("KEK"), DB: sb.digests("db")}
	}
	claims := a.claims(nil)
	for _, app := range claims.Applications {
		if findImage(p.Boot, app.Digest) == nil {
			p.Boot = append(p.Boot, AllowedImage{Name: app.Path, Digest: app.Digest})
		}
	}
	if claims.Firmware != "" {
		p.Firmware.Versions = []string{claims.Firmware}
	}
	for e := range a.proved(2) {
		digest := Hex(e.Digest(eventlog.Bank(a.algorithm)))
		if !a.isMarker(e) && !contains(p.Firmware.Drivers, digest) {
			p.Firmware.Drivers = append(p.Firmware.Drivers, digest)
		}
	}
	if a.algorithm != banks[0] {
		p.TPM.Bank = a.algorithm
	}
	p.TPM.MinimumFirmware = claims.TPMFirmware
	p.IMA.Required = claims.IMA != nil && claims.IMA.Entries > 0
	p.IMA.AllowViolations = claims.IMA != nil && claims.IMA.Violations > 0
	return p, p.validate()
}

// digests lists what a variable holds, each once.
func (sb *secureBoot) digests(name string) []Hex {
	var out []Hex
	for _, s := range sb.variables[name] {
		if !contains(out, s.Digest) {
			out = append(out, slices.Clone(s.Digest))
		}
	}
	return out
}

// Encode writes the policy in TOML, as [ParsePolicy] reads it.
func (p *Policy) Encode(w io.Writer) error {
	enc := toml.NewEncoder(w)
	enc.Indent = ""
	if err := enc.Encode(p); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	return nil
}
