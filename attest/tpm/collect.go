package tpm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
)

// Where Linux and systemd keep the logs.
const (
	DefaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
	DefaultIMALog   = "/sys/kernel/security/ima/binary_runtime_measurements"
	DefaultUserLog  = "/run/log/systemd/tpm2-measure.log"
)

// collectAttempts bounds how often Collect quotes again because a PCR was
// extended between the quote and the reading of the values. A quote takes 3 ms
// on swtpm and some 300 ms on a discrete TPM.
const collectAttempts = 16

// ErrBusy means that PCRs changed faster than they could be read.
var ErrBusy = errors.New("PCRs kept changing while they were read")

// CollectOptions says what to collect; the zero value is the quote of
// [DefaultPCRs] in the preferred bank with the logs of this machine.
type CollectOptions struct {
	Nonce []byte // the verifier's challenge, at most 64 bytes
	PCRs  []int

	// Paths of the logs; "-" is none, empty is the running machine's log, or
	// none where the TPM is a socket and so not the running machine's.
	EventLog, IMALog, UserLog string
}

// Collect quotes, reads the quoted PCR values and then the logs, so that each
// log holds at least what the quote covers. A log that cannot be read is named
// with its reason in the evidence and is not an error.
func (t *TPM) Collect(ak *AK, opts CollectOptions) (*attest.Evidence, error) {
	selection, err := t.selection(opts.PCRs)
	if err != nil {
		return nil, err
	}
	ev := &attest.Evidence{Version: attest.EvidenceVersion, Nonce: opts.Nonce, AK: ak.Public()}
	if err := t.quoteAndRead(ak, ev, selection); err != nil {
		return nil, err
	}
	ev.TakenAt = time.Now().UTC().Truncate(time.Millisecond)
	ev.Missing = make(map[string]string)
	ev.EventLog = t.readLog(ev, "event_log", opts.EventLog, DefaultEventLog, attest.MaxEventLog)
	ev.IMALog = t.readLog(ev, "ima_log", opts.IMALog, DefaultIMALog, attest.MaxIMALog)
	ev.UserLog = t.readLog(ev, "user_log", opts.UserLog, DefaultUserLog, attest.MaxEventLog)
	return ev, nil
}

func (t *TPM) selection(pcrs []int) (attest.Selection, error) {
	banks, err := t.ActiveBanks()
	if err != nil {
		return attest.Selection{}, err
	}
	if len(banks) == 0 || banks[0] == "sha1" {
		return attest.Selection{}, ErrNoBank
	}
	if len(pcrs) == 0 {
		pcrs = DefaultPCRs
	}
	pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	return attest.Selection{Algorithm: banks[0], PCRs: pcrs}, nil
}

// quoteAndRead fills in a quote and values that belong together.
func (t *TPM) quoteAndRead(ak *AK, ev *attest.Evidence, selection attest.Selection) error {
	sel, err := selectPCRs(selection)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key, err := t.loadAK(ak)
	if err != nil {
		return err
	}
	defer key.unload()
	for range collectAttempts {
		if ev.Quote, ev.Signature, err = t.quote(key, ev.Nonce, sel); err != nil {
			return err
		}
		bank, err := t.readPCRs(selection)
		if err != nil {
			return err
		}
		ev.Banks = []attest.Bank{bank}
		quote, err := attest.VerifyQuote(ev.AK, ev.Quote, ev.Signature, ev.Nonce)
		if err != nil {
			return fmt.Errorf("check the TPM's own quote: %w", err)
		}
		if quote.CheckPCRs(ev.Banks) == nil {
			return nil
		}
	}
	return ErrBusy
}

// readLog reads one log whole, or notes in ev why it is not there.
func (t *TPM) readLog(ev *attest.Evidence, name, path, fallback string, most int64) []byte {
	switch {
	case path == "" && t.socket:
		ev.Missing[name] = "the TPM is not this machine's own"
		return nil
	case path == "":
		path = fallback
	case path == "-":
		ev.Missing[name] = "not asked for"
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		ev.Missing[name] = err.Error()
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		ev.Missing[name] = err.Error()
		return nil
	case int64(len(data)) > most:
		ev.Missing[name] = fmt.Sprintf("%s is larger than %d bytes", path, most)
		return nil
	}
	return data
}
