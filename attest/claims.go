package attest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// claims reads facts from the events of PCRs that the log reproduces. Names of
// images come from allowed.
func (a *appraisal) claims(allowed []AllowedImage) Claims {
	c := Claims{
		Clock:        a.quote.Clock,
		ResetCount:   a.quote.ResetCount,
		RestartCount: a.quote.RestartCount,
		TPMFirmware:  formatTPMFirmware(a.quote.FirmwareVersion),
	}
	c.AK, _ = Name(a.ev.AK) // the quote verified with this key
	if a.log != nil {
		a.logClaims(&c, allowed)
	}
	if a.list != nil && a.coveredErr == nil && a.quotedPCR10 {
		c.IMA = a.imaClaims()
	}
	c.Boot = a.story(&c)
	return c
}

func (a *appraisal) logClaims(c *Claims, allowed []AllowedImage) {
	bank := eventlog.Bank(a.algorithm)
	if a.reproduced(7) {
		sb := a.readSecureBoot()
		c.SecureBoot, c.Keys = sb.on, sb.keys()
	}
	if a.reproduced(0) {
		for e := range a.events(0) {
			if e.Type == eventlog.CRTMVersion && e.Bound(bank) {
				c.Firmware = e.Text()
			}
		}
	}
	if a.reproduced(bootPCR) {
		for e := range a.events(bootPCR) {
			if a.isMarker(e) {
				continue
			}
			app := BootApplication{Event: e.Index, PCR: e.PCR, Path: imagePath(e), Digest: e.Digest(bank)}
			if image := findImage(allowed, app.Digest); image != nil {
				app.Name = image.Name
			}
			c.Applications = append(c.Applications, app)
		}
	}
	// systemd-stub measures a command line that did not come out of the UKI
	// itself into PCR 12, with its text.
	if a.reproduced(12) {
		for e := range a.events(12) {
			if e.Type == eventlog.IPL {
				c.CommandLine = e.Text()
			}
		}
	}
}

func (a *appraisal) imaClaims() *IMAClaims {
	claims := &IMAClaims{Entries: a.covered, Later: len(a.list.Entries) - a.covered}
	for i := range a.list.Entries[:a.covered] {
		if a.list.Entries[i].Violation() {
			claims.Violations++
		}
	}
	return claims
}

// story tells a boot step by step.
func (a *appraisal) story(c *Claims) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if c.Firmware != "" {
		say("Firmware version %q measured itself.", c.Firmware)
	}
	if c.SecureBoot != nil {
		say("Secure Boot was %s.", map[bool]string{true: "on", false: "off"}[*c.SecureBoot])
		for _, words := range a.keyWords() {
			say("%s.", words)
		}
	}
	for e := range a.proved(2) {
		if e.Type == eventlog.BootDriver || e.Type == eventlog.RuntimeDriver {
			say("A driver of an add-in card was loaded: %s.", imagePath(e))
		}
	}
	for e := range a.proved(1) {
		if e.Type == eventlog.VariableBoot || e.Type == eventlog.VariableBoot2 {
			say("Configuration: %s.", e.Describe())
		}
	}
	for _, app := range c.Applications {
		name := app.Name
		if name == "" {
			name = "not known to a policy"
		}
		say("The firmware started %s, digest %.16s... (%s).", app.Path, app.Digest, name)
	}
	for e := range a.proved(7) {
		if e.Type == eventlog.VariableAuthority {
			say("A%s.", strings.TrimPrefix(e.Describe(), "a")) // "an image was allowed by ..."
		}
	}
	if sections := a.stubSections(); len(sections) > 0 {
		say("The image unpacked and measured its sections %s.", strings.Join(sections, ", "))
	}
	if c.CommandLine != "" {
		say("The kernel was given the command line %q.", c.CommandLine)
	}
	for pcr := range 24 {
		for _, e := range a.user[pcr] {
			say("User space %s (PCR %d).", e.words, pcr)
		}
	}
	if c.IMA != nil {
		say("The kernel's IMA made %d measurements, %d of files that were being written.", c.IMA.Entries, c.IMA.Violations)
	}
	return out
}

// proved yields the events of a PCR that the log reproduces.
func (a *appraisal) proved(pcr int) func(func(*eventlog.Event) bool) {
	if a.log == nil || !a.reproduced(pcr) {
		return func(func(*eventlog.Event) bool) {}
	}
	return a.events(pcr)
}

func (a *appraisal) keyWords() []string {
	var out []string
	for e := range a.proved(7) {
		v, err := e.Variable()
		if e.Type != eventlog.VariableDriverConfig || err != nil {
			continue
		}
		if v.Global("PK") || v.Global("KEK") || v.Security("db") {
			out = append(out, e.Describe())
		}
	}
	return out
}

// stubSections lists the sections of a unified kernel image that systemd-stub
// measured into PCR 11. For each it extends the name with its NUL in ASCII,
// which proves the name, and then the content (systemd src/boot/efi/stub.c).
func (a *appraisal) stubSections() []string {
	var out []string
	bank := eventlog.Bank(a.algorithm)
	for e := range a.proved(11) {
		name := e.Text()
		if strings.HasPrefix(name, ".") && bytes.Equal(e.Digest(bank), hashBytes(a.algorithm, []byte(name), []byte{0})) {
			out = append(out, name)
		}
	}
	return out
}
