package attest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// Events of the lab's log that tests tamper with.
const (
	eventSecureBoot  = 4
	eventDB          = 7
	eventSeparator7  = 9
	eventApplication = 23
	eventSection     = 24
)

func verify(t *testing.T, ev *attest.Evidence, policy *attest.Policy, opts attest.VerifyOptions) *attest.Result {
	t.Helper()
	result, err := attest.Verify(ev, policy, opts)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func outcomes(r *attest.Result) map[string]attest.Outcome {
	out := make(map[string]attest.Outcome)
	for _, c := range r.Checks {
		out[c.Name] = c.Outcome
	}
	return out
}

func findings(r *attest.Result, check string) []attest.Finding {
	for _, c := range r.Checks {
		if c.Name == check {
			return c.Findings
		}
	}
	return nil
}

// TestAcceptsTheLabMachine is the benign twin of the attacks in this file: a
// real TPM's evidence of a real boot.
func TestAcceptsTheLabMachine(t *testing.T) {
	ev := labEvidence(t)
	r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	want := map[string]attest.Outcome{
		attest.CheckQuote: attest.Pass, attest.CheckNonce: attest.Pass, attest.CheckKey: attest.Pass,
		attest.CheckEventLog: attest.Pass, attest.CheckSecureBoot: attest.Pass, attest.CheckBoot: attest.Pass,
		attest.CheckFirmware: attest.Pass, attest.CheckIMA: attest.Pass,
	}
	if diff := cmp.Diff(want, outcomes(r)); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	if r.Outcome != attest.Pass {
		t.Errorf("outcome %s", r.Outcome)
	}
	c := r.Claims
	if c.SecureBoot == nil || !*c.SecureBoot || c.ResetCount == 0 || c.IMA.Entries < 50 {
		t.Errorf("claims: %+v", c)
	}
	if len(c.Applications) != 1 || c.Applications[0].Path != `\EFI\BOOT\BOOTX64.EFI` {
		t.Errorf("applications: %+v", c.Applications)
	}
}

// TestAcceptsTheModel shows that the attacks made with the model fail for what
// was attacked, not for the model.
func TestAcceptsTheModel(t *testing.T) {
	ev := newMachine(t).boot().evidence()
	r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	if r.Outcome != attest.Pass {
		t.Errorf("outcome %s: %+v", r.Outcome, r.Checks)
	}
}

// TestWithoutNonceOrKeyNothingPasses: what was not measured is not a pass.
func TestWithoutNonceOrKeyNothingPasses(t *testing.T) {
	ev := labEvidence(t)
	for name, opts := range map[string]attest.VerifyOptions{
		"no nonce": {AK: ev.AK},
		"no key":   {Nonce: labNonce},
		"neither":  {},
	} {
		if r := verify(t, ev, labPolicy(t), opts); r.Outcome != attest.Incomplete {
			t.Errorf("%s: %s, want incomplete", name, r.Outcome)
		}
	}
	policy := labPolicy(t)
	keyName, err := attest.Name(ev.AK)
	if err != nil {
		t.Fatal(err)
	}
	policy.TPM.AK = []attest.Hex{keyName}
	if r := verify(t, ev, policy, attest.VerifyOptions{Nonce: labNonce}); r.Outcome != attest.Pass {
		t.Errorf("key listed in the policy: %s, want pass", r.Outcome)
	}
}

// TestDetects lists attacks on the lab's evidence that need no help from the
// TPM: each must fail the named check.
func TestDetects(t *testing.T) {
	attacks := []struct {
		name  string
		spoil func(*testing.T, *attest.Evidence, *attest.VerifyOptions)
		check string
	}{
		{"wrong nonce", func(_ *testing.T, _ *attest.Evidence, o *attest.VerifyOptions) {
			o.Nonce = []byte("another nonce")
		}, attest.CheckNonce},
		{"replayed quote with the new nonce written beside it", func(_ *testing.T, ev *attest.Evidence, o *attest.VerifyOptions) {
			o.Nonce = []byte("today's nonce")
			ev.Nonce = o.Nonce
		}, attest.CheckNonce},
		{"nonce edited into the quote", func(_ *testing.T, ev *attest.Evidence, o *attest.VerifyOptions) {
			o.Nonce = bytes.Repeat([]byte{7}, 16)
			ev.Quote = bytes.Replace(ev.Quote, labNonce, o.Nonce, 1)
		}, attest.CheckQuote},
		{"re-signed by another key", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.Signature = newMachine(t).sign(ev.Quote)
		}, attest.CheckQuote},
		{"re-signed by another key that is shown as the AK", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			rogue := newMachine(t)
			ev.Signature, ev.AK = rogue.sign(ev.Quote), rogue.public(nil)
		}, attest.CheckKey},
		{"key that signs whatever it is given", func(t *testing.T, ev *attest.Evidence, o *attest.VerifyOptions) {
			rogue := newMachine(t)
			ev.AK = rogue.public(func(a *tpm2.TPMAObject) { a.Restricted = false })
			ev.Signature, o.AK = rogue.sign(ev.Quote), ev.AK
		}, attest.CheckQuote},
		{"PCR value edited", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.Banks[0].PCRs[7] = make([]byte, 32)
		}, attest.CheckQuote},
		{"PCR value withheld", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			delete(ev.Banks[0].PCRs, 7)
		}, attest.CheckQuote},
		{"PCR value added that is not quoted", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.Banks[0].PCRs[23] = make([]byte, 32)
		}, attest.CheckQuote},
		{"event log cut in the middle of an event", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.EventLog = ev.EventLog[:len(ev.EventLog)-3]
		}, attest.CheckEventLog},
		{"event log with something behind it", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.EventLog = append(ev.EventLog, 1, 2, 3)
		}, attest.CheckEventLog},
		{"event log cut between events", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) { l.Events = l.Events[:30] })
		}, attest.CheckEventLog},
		{"event dropped", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) { l.Events = slices.Delete(l.Events, eventApplication, eventApplication+1) })
		}, attest.CheckEventLog},
		{"all events of a PCR dropped", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) {
				l.Events = slices.DeleteFunc(l.Events, func(e eventlog.Event) bool { return e.PCR == 4 })
			})
		}, attest.CheckEventLog},
		{"events swapped", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) {
				l.Events[eventDB], l.Events[eventDB+1] = l.Events[eventDB+1], l.Events[eventDB]
			})
		}, attest.CheckEventLog},
		{"digest of an event edited", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) { l.Events[eventApplication].Digests[0].Value = make([]byte, 32) })
		}, attest.CheckEventLog},
		{"data of a variable edited below its digest", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) {
				e := &l.Events[eventDB]
				e.Data = bytes.Replace(e.Data, []byte("SnakeOil"), []byte("Microsof"), -1)
			})
		}, attest.CheckEventLog},
		{"event relabelled as never extended", func(t *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			editLog(t, ev, func(l *eventlog.Log) { l.Events[eventApplication].Type = eventlog.NoAction })
		}, attest.CheckEventLog},
		{"IMA entry edited", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.IMALog = bytes.Replace(ev.IMALog, []byte("/usr/bin/mount"), []byte("/usr/bin/mouse"), 1)
		}, attest.CheckIMA},
		{"IMA list cut before what the quote covers", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.IMALog = ev.IMALog[:len(ev.IMALog)/2]
		}, attest.CheckIMA},
		{"IMA list withheld", func(_ *testing.T, ev *attest.Evidence, _ *attest.VerifyOptions) {
			ev.IMALog = nil
		}, attest.CheckIMA},
	}
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			ev := labEvidence(t)
			opts := attest.VerifyOptions{Nonce: labNonce, AK: bytes.Clone(ev.AK)}
			attack.spoil(t, ev, &opts)
			r := verify(t, ev, labPolicy(t), opts)
			if got := outcomes(r)[attack.check]; got != attest.Fail || r.Outcome != attest.Fail {
				t.Errorf("check %s is %s, outcome %s: %+v", attack.check, got, r.Outcome, r.Checks)
			}
			if len(findings(r, attack.check)) == 0 {
				t.Error("no finding says why")
			}
		})
	}
}

func editLog(t *testing.T, ev *attest.Evidence, edit func(*eventlog.Log)) {
	t.Helper()
	log, err := eventlog.Parse(ev.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	edit(log)
	ev.EventLog = encodeLog(log)
}

// TestDetectsAnotherImage boots what the policy does not list: the finding names
// file and event.
func TestDetectsAnotherImage(t *testing.T) {
	m := newMachine(t)
	rogue := sha256.Sum256([]byte("rogue kernel"))
	m.log.Events[eventApplication].Digests[0].Value = rogue[:]
	ev := m.boot().evidence()
	r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	if r.Outcome != attest.Fail {
		t.Fatalf("outcome %s", r.Outcome)
	}
	found := findings(r, attest.CheckBoot)
	if len(found) == 0 {
		t.Fatal("no finding")
	}
	f := found[0]
	if *f.Event != eventApplication || *f.PCR != 4 || f.File != `\EFI\BOOT\BOOTX64.EFI` ||
		f.Observed != attest.Hex(rogue[:]).String() || !strings.Contains(f.Expected, labPolicy(t).Boot[0].Digest.String()) {
		t.Errorf("finding: %+v", f)
	}
}

// TestDetectsDisguisedImage starts a rogue image and forges the log's types,
// which no digest covers, so that the event passes for something else.
func TestDetectsDisguisedImage(t *testing.T) {
	rogue := []byte("MZ\x90\x00 all that the digest of the rogue image is computed from")
	for name, disguise := range map[string]func(*eventlog.Event){
		"as an action with other data": func(e *eventlog.Event) {
			e.Type, e.Data = eventlog.EFIAction, []byte("Exit Boot Services Invocation")
		},
		"as an action with the image as data": func(e *eventlog.Event) { e.Type, e.Data = eventlog.EFIAction, rogue },
		"as a separator":                      func(e *eventlog.Event) { e.Type, e.Data = eventlog.Separator, rogue },
		"as a compact hash":                   func(e *eventlog.Event) { e.Type, e.Data = eventlog.CompactHash, rogue },
		"as a boot loader's text":             func(e *eventlog.Event) { e.Type, e.Data = eventlog.IPL, rogue },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			// The allowed image is started as well, so that one is there.
			extra := m.log.Events[eventApplication]
			digest := sha256.Sum256(rogue)
			extra.Digests = []eventlog.Digest{{Algorithm: eventlog.Bank("sha256"), Value: digest[:]}}
			disguise(&extra)
			m.log.Events = append(m.log.Events, extra)
			ev := m.boot().evidence()
			r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
			if got := outcomes(r)[attest.CheckBoot]; got != attest.Fail {
				t.Errorf("check %s is %s", attest.CheckBoot, got)
			}
		})
	}
}

// TestDetectsSecureBootOff boots with Secure Boot off, plainly and with the
// ways to hide it in a log.
func TestDetectsSecureBootOff(t *testing.T) {
	off := func(m *machine) []byte {
		data := bytes.Clone(m.log.Events[eventSecureBoot].Data)
		data[len(data)-1] = 0
		return data
	}
	for name, attack := range map[string]func(*machine){
		"plainly": func(m *machine) { m.measure(eventSecureBoot, off(m)) },
		"variable absent": func(m *machine) {
			m.log.Events = slices.Delete(m.log.Events, eventSecureBoot, eventSecureBoot+1)
		},
		"relabelled, and measured on afterwards": func(m *machine) {
			on := m.log.Events[eventSecureBoot]
			m.log.Events = slices.Insert(m.log.Events, eventSeparator7+1, on)
			m.log.Events[eventSeparator7+1].Digests = slices.Clone(on.Digests)
			m.measure(eventSecureBoot, off(m))
			m.log.Events[eventSecureBoot].Type = eventlog.CompactHash
		},
		"on and off": func(m *machine) {
			twice := m.log.Events[eventSecureBoot]
			twice.Digests = slices.Clone(twice.Digests)
			m.log.Events = slices.Insert(m.log.Events, eventSecureBoot, twice)
			m.measure(eventSecureBoot+1, off(m))
		},
		"off and on": func(m *machine) {
			twice := m.log.Events[eventSecureBoot]
			twice.Digests = slices.Clone(twice.Digests)
			m.log.Events = slices.Insert(m.log.Events, eventSecureBoot, twice)
			m.measure(eventSecureBoot, off(m))
		},
		"data edited to say on": func(m *machine) {
			on := m.log.Events[eventSecureBoot].Data
			m.measure(eventSecureBoot, off(m))
			m.log.Events[eventSecureBoot].Data = on
		},
		"debug mode": func(m *machine) {
			debug := m.log.Events[eventSeparator7]
			debug.Type, debug.Digests = eventlog.EFIAction, slices.Clone(debug.Digests)
			m.log.Events = slices.Insert(m.log.Events, eventSeparator7, debug)
			m.measure(eventSeparator7, []byte("UEFI Debug Mode"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			attack(m)
			ev := m.boot().evidence()
			r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
			if got := outcomes(r)[attest.CheckSecureBoot]; got != attest.Fail {
				t.Errorf("check %s is %s: %+v", attest.CheckSecureBoot, got, r.Checks)
			}
		})
	}
}

// TestDetectsAnotherKeyInDB has a certificate in db that the policy does not
// allow; the finding says whose.
func TestDetectsAnotherKeyInDB(t *testing.T) {
	policy := labPolicy(t)
	policy.SecureBoot.DB = []attest.Hex{make([]byte, 32)}
	ev := labEvidence(t)
	r := verify(t, ev, policy, attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	found := findings(r, attest.CheckSecureBoot)
	if len(found) != 1 || *found[0].Event != eventDB || !strings.Contains(found[0].Explanation, "SnakeOil") {
		t.Errorf("findings: %+v", found)
	}
}

// TestDetectsMissingRevocation asks for a revocation that dbx lacks.
func TestDetectsMissingRevocation(t *testing.T) {
	policy := labPolicy(t)
	policy.SecureBoot.DBX = []attest.Hex{bytes.Repeat([]byte{1}, 32)}
	ev := labEvidence(t)
	r := verify(t, ev, policy, attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	if got := outcomes(r)[attest.CheckSecureBoot]; got != attest.Fail {
		t.Errorf("check %s is %s", attest.CheckSecureBoot, got)
	}
}

// TestUnexplainedRegisters: a PCR that nothing explains is not a pass.
func TestUnexplainedRegisters(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*machine)
		want  attest.Outcome
	}{
		"extended by nothing that a log tells of": {func(m *machine) { m.pcrs[15] = bytes.Repeat([]byte{1}, 32) }, attest.NotMeasured},
		"not quoted": {func(m *machine) { delete(m.pcrs, 4) }, attest.NotMeasured},
		"firmware that does not measure": {func(m *machine) {
			m.log.Events = m.log.Events[:1]
			m.boot()
		}, attest.Fail},
		"extended after the boot phases": {func(m *machine) { m.pcrs[11] = extend(m.pcrs[11], "no phase of systemd") }, attest.Fail},
		"boot phase of systemd":          {func(m *machine) { m.pcrs[11] = extend(m.pcrs[11], "sysinit") }, attest.Pass},
		"boot phases of systemd": {func(m *machine) {
			for _, phase := range []string{"enter-initrd", "leave-initrd", "sysinit", "ready"} {
				m.pcrs[11] = extend(m.pcrs[11], phase)
			}
		}, attest.Pass},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t).boot()
			c.spoil(m)
			ev := m.evidence()
			r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
			if got := outcomes(r)[attest.CheckEventLog]; got != c.want {
				t.Errorf("check %s is %s, want %s: %+v", attest.CheckEventLog, got, c.want, findings(r, attest.CheckEventLog))
			}
			if c.want != attest.Pass && r.Outcome == attest.Pass {
				t.Error("and the evidence passes")
			}
		})
	}
}

// TestUserLog: what systemd says it extended explains PCRs that the firmware's
// log does not, and nothing else does.
func TestUserLog(t *testing.T) {
	entry := func(pcr int, text string) string {
		return fmt.Sprintf("\x1e"+`{"pcr":%d,"digests":[{"hashAlg":"sha256","digest":"%x"}],"content":{"string":%q,"eventType":"machine-id"}}`+"\n",
			pcr, sha256.Sum256([]byte(text)), text)
	}
	whole := entry(15, "machine-id:0123") + entry(11, "own phase") + entry(15, "file-system:/")
	for name, c := range map[string]struct {
		log  string
		want attest.Outcome
	}{
		"the log":            {whole, attest.Pass},
		"a log that grew":    {whole + entry(15, "later"), attest.Pass},
		"an event dropped":   {entry(15, "machine-id:0123") + entry(11, "own phase"), attest.NotMeasured},
		"an event edited":    {strings.Replace(whole, "\"digest\":\"", "\"digest\":\"00", 1), attest.NotMeasured},
		"one of PCR 11 lost": {entry(15, "machine-id:0123") + entry(15, "file-system:/"), attest.Fail},
		"damaged":            {whole + "\x1e{", attest.Fail},
		"absent":             {"", attest.Fail},
	} {
		m := newMachine(t).boot()
		m.pcrs[15] = extend(extend(m.pcrs[15], "machine-id:0123"), "file-system:/")
		m.pcrs[11] = extend(m.pcrs[11], "own phase")
		ev := m.evidence()
		ev.UserLog = []byte(c.log)
		r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
		if got := outcomes(r)[attest.CheckEventLog]; got != c.want {
			t.Errorf("%s: check %s is %s, want %s: %+v", name, attest.CheckEventLog, got, c.want, findings(r, attest.CheckEventLog))
		}
		if told := strings.Join(r.Claims.Boot, "\n"); c.want == attest.Pass && !strings.Contains(told, `measured "machine-id:0123" (PCR 15)`) {
			t.Errorf("%s: not told:\n%s", name, told)
		}
	}
}

func extend(value []byte, phase string) []byte {
	digest := sha256.Sum256([]byte(phase))
	sum := sha256.Sum256(append(bytes.Clone(value), digest[:]...))
	return sum[:]
}

// TestAcceptsListThatGrew is the benign twin of the cut list: the kernel
// measured on after the quote.
func TestAcceptsListThatGrew(t *testing.T) {
	ev := labEvidence(t)
	policy := labPolicy(t)
	before := verify(t, ev, policy, attest.VerifyOptions{Nonce: labNonce, AK: ev.AK}).Claims.IMA
	// The first entry once more, at the end.
	entry := bytes.Clone(ev.IMALog[:entrySize(ev.IMALog)])
	ev.IMALog = append(ev.IMALog, entry...)
	r := verify(t, ev, policy, attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
	if r.Outcome != attest.Pass || r.Claims.IMA.Later != before.Later+1 || r.Claims.IMA.Entries != before.Entries {
		t.Errorf("outcome %s, claims %+v, before %+v", r.Outcome, r.Claims.IMA, before)
	}
}

func TestPolicyNobodyCanPassSilently(t *testing.T) {
	if _, err := attest.Verify(labEvidence(t), &attest.Policy{Name: "empty"}, attest.VerifyOptions{}); !errors.Is(err, attest.ErrEmptyPolicy) {
		t.Errorf("empty policy: %v, want ErrEmptyPolicy", err)
	}
}
