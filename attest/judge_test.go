package attest_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/eventlog"
	"github.com/plumbline-sec/plumbline/attest/ima"
)

// TestNothingIsReadFromUnprovedEvents: a check never rests on events that the
// quote does not prove.
func TestNothingIsReadFromUnprovedEvents(t *testing.T) {
	for pcr, check := range map[int]string{4: attest.CheckBoot, 7: attest.CheckSecureBoot} {
		ev := labEvidence(t)
		editLog(t, ev, func(l *eventlog.Log) {
			l.Events = append(l.Events, eventlog.Event{PCR: pcr, Type: eventlog.EFIAction, Data: []byte("x"),
				Digests: []eventlog.Digest{{Algorithm: eventlog.Bank("sha256"), Value: make([]byte, 32)}}})
		})
		r := verify(t, ev, labPolicy(t), attest.VerifyOptions{Nonce: labNonce, AK: ev.AK})
		if got := outcomes(r)[check]; got != attest.NotMeasured {
			t.Errorf("PCR %d: check %s is %s, want not measured", pcr, check, got)
		}
		if pcr == 4 && len(r.Claims.Applications) != 0 {
			t.Errorf("claims %+v", r.Claims.Applications)
		}
	}
}

// TestPolicyParts turns one screw at a time; each has its benign twin.
func TestPolicyParts(t *testing.T) {
	zero := make(attest.Hex, 32)
	lab := labEvidence(t)
	blobs := []attest.Hex{logDigest(t, 2), logDigest(t, 3)}
	for _, c := range []struct {
		name   string
		policy attest.Policy
		spoil  func(*machine)
		check  string
		want   attest.Outcome
	}{
		{"PCR of the reference", attest.Policy{PCRs: map[string][]attest.Hex{"7": {zero, lab.Banks[0].PCRs[7]}}}, nil, attest.CheckPCRs, attest.Pass},
		{"another PCR value", attest.Policy{PCRs: map[string][]attest.Hex{"7": {zero}}}, nil, attest.CheckPCRs, attest.Fail},
		{"PCR that is not quoted", attest.Policy{PCRs: map[string][]attest.Hex{"23": {zero}}}, nil, attest.CheckPCRs, attest.NotMeasured},
		{"TPM firmware as it is", attest.Policy{TPM: attest.TPMPolicy{MinimumFirmware: "2019.1023.16.3636"}}, nil, attest.CheckFirmware, attest.Pass},
		{"old TPM firmware", attest.Policy{TPM: attest.TPMPolicy{MinimumFirmware: "2019.1024"}}, nil, attest.CheckFirmware, attest.Fail},
		{"firmware code as it is", attest.Policy{Firmware: attest.FirmwarePolicy{Blobs: blobs}}, nil, attest.CheckFirmware, attest.Pass},
		{"other firmware code", attest.Policy{Firmware: attest.FirmwarePolicy{Blobs: blobs[:1]}}, nil, attest.CheckFirmware, attest.Fail},
		{"firmware version as it is", attest.Policy{Firmware: attest.FirmwarePolicy{Versions: []string{"1.0"}}}, version("1.0"), attest.CheckFirmware, attest.Pass},
		{"another firmware version", attest.Policy{Firmware: attest.FirmwarePolicy{Versions: []string{"1.0"}}}, version("0.9"), attest.CheckFirmware, attest.Fail},
		{"no firmware version", attest.Policy{Firmware: attest.FirmwarePolicy{Versions: []string{"1.0"}}}, func(m *machine) {
			m.log.Events = slices.Delete(m.log.Events, 1, 2)
		}, attest.CheckFirmware, attest.Fail},
		{"no drivers", attest.Policy{Firmware: attest.FirmwarePolicy{Drivers: []attest.Hex{zero}}}, nil, attest.CheckFirmware, attest.Pass},
		{"driver that is listed", attest.Policy{Firmware: attest.FirmwarePolicy{Drivers: []attest.Hex{zero}}}, driver(zero), attest.CheckFirmware, attest.Pass},
		{"driver that is not", attest.Policy{Firmware: attest.FirmwarePolicy{Drivers: []attest.Hex{zero}}}, driver(bytes.Repeat([]byte{1}, 32)), attest.CheckFirmware, attest.Fail},
		{"IMA required", attest.Policy{IMA: attest.IMAPolicy{Required: true}}, nil, attest.CheckIMA, attest.Pass},
		{"IMA not quoted", attest.Policy{IMA: attest.IMAPolicy{Required: true}}, func(m *machine) { delete(m.pcrs, 10) }, attest.CheckIMA, attest.NotMeasured},
		{"IMA that had not started", attest.Policy{IMA: attest.IMAPolicy{Required: true}}, func(m *machine) { m.pcrs[10] = zero }, attest.CheckIMA, attest.NotMeasured},
		{"file that is not listed", attest.Policy{IMA: attest.IMAPolicy{Files: map[string][]string{"/init": {"sha256:" + zero.String()}}, Exclude: []string{"/usr/**"}}}, nil, attest.CheckIMA, attest.Fail},
		{"all files excluded", attest.Policy{IMA: attest.IMAPolicy{Files: map[string][]string{"/none": {"sha256:" + zero.String()}}, Exclude: []string{"/**"}}}, nil, attest.CheckIMA, attest.Pass},
		{"file of other content", attest.Policy{IMA: attest.IMAPolicy{Files: map[string][]string{"/init": {"sha256:" + zero.String()}},
			Exclude: []string{"/bin/**", "/usr/**", "/etc/**", "/modules/**", "/opt/**", "/tmp/**"}}}, nil, attest.CheckIMA, attest.Fail},
		{"files of their content", attest.Policy{IMA: attest.IMAPolicy{Files: labFiles(t)}}, nil, attest.CheckIMA, attest.Pass},
		{"violation", attest.Policy{IMA: attest.IMAPolicy{Required: true}}, violation, attest.CheckIMA, attest.Fail},
		{"violation that is allowed", attest.Policy{IMA: attest.IMAPolicy{Required: true, AllowViolations: true}}, violation, attest.CheckIMA, attest.Pass},
		{"list of another boot", attest.Policy{IMA: attest.IMAPolicy{Required: true}}, func(m *machine) { m.measure(12, []byte("another boot entry")) }, attest.CheckIMA, attest.Fail},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			quoted := maps.Clone(m.pcrs)
			if c.spoil != nil {
				c.spoil(m)
			}
			spoiled := maps.Clone(m.pcrs)
			m.boot()
			for pcr := range quoted { // what spoil did to values directly stands
				if value, ok := spoiled[pcr]; !ok || !bytes.Equal(value, quoted[pcr]) {
					m.pcrs[pcr] = value
				}
				if _, ok := spoiled[pcr]; !ok {
					delete(m.pcrs, pcr)
				}
			}
			r := verify(t, m.evidence(), &c.policy, attest.VerifyOptions{Nonce: labNonce})
			if got := outcomes(r)[c.check]; got != c.want {
				t.Errorf("check %s is %s, want %s: %+v", c.check, got, c.want, findings(r, c.check))
			}
		})
	}
}

// version has the firmware measure a version of itself, in UTF-16.
func version(s string) func(*machine) {
	return func(m *machine) {
		var data []byte
		for _, r := range s {
			data = append(data, byte(r), 0)
		}
		m.measure(1, append(data, 0, 0))
	}
}

// driver has the firmware load a driver of an add-in card.
func driver(digest []byte) func(*machine) {
	return func(m *machine) {
		m.log.Events = append(m.log.Events, eventlog.Event{PCR: 2, Type: eventlog.BootDriver,
			Digests: []eventlog.Digest{{Algorithm: eventlog.Bank("sha256"), Value: digest}}})
	}
}

// violation has the kernel note that a file was written while it was measured.
func violation(m *machine) {
	size := entrySize(m.ima)
	entry := bytes.Clone(m.ima[:size])
	copy(entry[4:24], make([]byte, 20))
	list, err := ima.Parse(m.ima)
	if err != nil {
		m.t.Fatal(err)
	}
	covered, err := list.Match(crypto.SHA256, 10, m.pcrs[10])
	if err != nil {
		m.t.Fatal(err)
	}
	rest := m.ima
	for range covered {
		rest = rest[entrySize(rest):]
	}
	m.ima = append(bytes.Clone(m.ima[:len(m.ima)-len(rest)]), entry...)
	sum := sha256.Sum256(append(bytes.Clone(m.pcrs[10]), bytes.Repeat([]byte{0xff}, 32)...))
	m.pcrs[10] = sum[:]
}

// entrySize is the size of the first entry of a binary list: PCR, SHA-1, name,
// data.
func entrySize(list []byte) int {
	const name = 4 + 20
	data := name + 4 + int(binary.LittleEndian.Uint32(list[name:]))
	return data + 4 + int(binary.LittleEndian.Uint32(list[data:]))
}

// labFiles lists the lab's files as a policy does.
func labFiles(t *testing.T) map[string][]string {
	t.Helper()
	list, err := ima.Parse(labEvidence(t).IMALog)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]string)
	for _, e := range list.Entries {
		files[e.Path] = append(files[e.Path], fmt.Sprintf("%s:%x", e.Algorithm, e.Digest))
	}
	return files
}

// logDigest is the digest of an event of the lab's log.
func logDigest(t *testing.T, event int) attest.Hex {
	t.Helper()
	log, err := eventlog.Parse(labEvidence(t).EventLog)
	if err != nil {
		t.Fatal(err)
	}
	return log.Events[event].Digests[0].Value
}
