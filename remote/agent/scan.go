package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
)

// measurable is a machine that was opened for one scan.
type measurable interface {
	check.Machine
	Close() error
}

// opener opens the machine of a scan.
type opener func(ctx context.Context) (measurable, error)

// scanLimit bounds one scan. A monitor that hangs must not keep the BMC busy for
// ever: the next trigger has to find it free.
const scanLimit = 10 * time.Minute

// scan answers a trigger: measure, quote, spool. What goes wrong is spooled too:
// a trigger without any answer could not be told from an agent that is gone.
func (a *Agent) scan(ctx context.Context, target measure.Target, nonce remote.Nonce, open opener) error {
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	var record *remote.Scan
	var pages check.Pages
	err := guard(func() (err error) {
		record, pages, err = a.measure(ctx, target, nonce, open)
		return err
	})
	if err == nil {
		a.outbox.bodies.keepScan(target.Name, pages)
		err = put(a.outbox, remote.KindScan, record)
	}
	if err == nil {
		return nil
	}
	a.log.Error("scan failed", "target", target.Name, "error", err)
	failed := &remote.Scan{Target: target.Name, Nonce: nonce, Error: shortened(err)}
	return errors.Join(err, put(a.outbox, remote.KindScan, failed))
}

// maxReason bounds, in bytes, what a record says of an error: targets have a
// part in the text.
const maxReason = 4 << 10

func shortened(err error) string {
	text := err.Error()
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	return text
}

// guard turns a panic into an error. What targets hold is hostile: a panic is a
// bug, but one target must not end the measuring of all.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return f()
}

func (a *Agent) measure(ctx context.Context, target measure.Target, nonce remote.Nonce, open opener) (*remote.Scan, check.Pages, error) {
	machine, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	result, err := check.Scan(ctx, machine, &check.Options{
		Target:   target,
		Nonce:    nonce[:],
		Profiles: &a.profiles,
	})
	if err := errors.Join(err, machine.Close()); err != nil {
		return nil, nil, err
	}
	encoded, err := result.Observations.Encode()
	if err != nil {
		return nil, nil, fmt.Errorf("encode observations: %w", err)
	}
	bound := measure.Bind(nonce[:], encoded)
	quote, signature, err := a.device.Quote(a.ak, bound[:], attest.Selection{Algorithm: "sha256", PCRs: tpm.DefaultPCRs})
	if err != nil {
		return nil, nil, fmt.Errorf("quote the scan: %w", err)
	}
	a.log.Info("scanned", "target", target.Name, "pause", result.Observations.PauseNS, "elapsed", result.Observations.ElapsedNS)
	return &remote.Scan{
		Target: target.Name, Nonce: nonce, Observations: encoded,
		Quote: quote, Signature: signature, AKPublic: a.ak.Public(),
	}, result.Pages, nil
}
