package attest

import (
	"bytes"
	"fmt"

	"github.com/plumbline-sec/plumbline/attest/userlog"
)

// userEvent is something that user space extended, in words.
type userEvent struct {
	digest []byte
	words  string
}

// userPCRs are what systemd extends from user space by default: boot phases, and
// the system's identity (https://systemd.io/TPM2_PCR_MEASUREMENTS). Others are not
// explained by its log, or an event dropped from the firmware's could hide there.
var userPCRs = []int{11, 15}

// readUserLog explains userPCRs that the firmware's log does not lead to: by
// systemd's log where there is one, and PCR 11 otherwise by the boot phases that
// systemd extends.
func (a *appraisal) readUserLog() {
	a.user = make(map[int][]userEvent)
	logged := make(map[int][]userEvent)
	if len(a.ev.UserLog) > 0 {
		var events []userlog.Event
		events, a.userErr = userlog.Parse(a.ev.UserLog)
		for _, e := range events {
			logged[e.PCR] = append(logged[e.PCR], a.newUserEvent(&e))
		}
	}
	for _, pcr := range userPCRs {
		a.explainRegister(pcr, logged[pcr])
		for _, path := range phasePaths {
			if pcr == 11 && a.user[pcr] == nil {
				a.explainRegister(pcr, a.phases(path))
			}
		}
	}
}

// explainRegister keeps the prefix of events that leads from the firmware's value
// of a PCR to the quoted one; the log may have grown after the quote.
func (a *appraisal) explainRegister(pcr int, events []userEvent) {
	want, quoted := a.pcrs[pcr]
	value := a.replay[pcr].Value
	if !quoted || bytes.Equal(value, want) {
		return
	}
	for i, e := range events {
		value = hashBytes(a.algorithm, value, e.digest)
		if bytes.Equal(value, want) {
			a.user[pcr] = events[:i+1]
			return
		}
	}
}

// newUserEvent puts an event into words; its text is told only where the digest
// is that of the text.
func (a *appraisal) newUserEvent(e *userlog.Event) userEvent {
	digest := e.Digests[a.algorithm]
	words := fmt.Sprintf("measured something of type %q", clip(e.Type))
	if bytes.Equal(hashBytes(a.algorithm, []byte(e.Text)), digest) {
		words = fmt.Sprintf("measured %q", clip(e.Text))
	}
	return userEvent{digest: digest, words: words}
}

// phasePaths are the ways through systemd's boot phases (systemd-pcrphase(8)),
// which extend PCR 11. Before version 255 systemd kept no log of them. The first
// two are missing where the initrd does not run systemd.
var phasePaths = [][]string{
	{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"},
	{"sysinit", "ready", "shutdown", "final"},
	{"ready", "shutdown", "final"},
}

func (a *appraisal) phases(path []string) []userEvent {
	var out []userEvent
	for _, phase := range path {
		out = append(out, userEvent{
			digest: hashBytes(a.algorithm, []byte(phase)),
			words:  fmt.Sprintf("reached the boot phase %q", phase),
		})
	}
	return out
}
