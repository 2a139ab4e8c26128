package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem/kcore"
	"github.com/plumbline-sec/plumbline/measure/oob"
	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote"
)

// SelfConfig has the agent measure the machine it runs on when a record in its
// BMC's event log asks for it. What that is worth: docs/out-of-band.md.
type SelfConfig struct {
	Enabled bool   `toml:"enabled"`
	Device  int32  `toml:"device"` // N of /dev/ipmiN
	Every   string `toml:"every"`  // between two looks at the log, default 2s
}

// Bounds of SelfConfig.Every: a real BMC takes tens of milliseconds for a look,
// and a record should be answered before its verifier gives up.
const (
	minLook = 100 * time.Millisecond
	maxLook = time.Minute
)

func (s *SelfConfig) check() error {
	_, err := s.every()
	if err == nil && s.Device < 0 {
		err = fmt.Errorf("device %d: want N of /dev/ipmiN", s.Device)
	}
	return err
}

func (s *SelfConfig) every() (time.Duration, error) {
	if s.Every == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s.Every)
	if err != nil {
		return 0, fmt.Errorf("every: %w", err)
	}
	if d < minLook || d > maxLook {
		return 0, fmt.Errorf("every %s: want %s to %s", d, minLook, maxLook)
	}
	return d, nil
}

// lookAgain is the pause before a log that could not be opened is tried again.
const lookAgain = 30 * time.Second

// watchLog polls the event log until ctx ends.
func (a *Agent) watchLog(ctx context.Context, log oob.EventLog, open opener) {
	every, err := a.config.Self.every()
	if err != nil { // the configuration was checked
		a.log.Error("event log", "error", err)
		return
	}
	poll := &oob.SELPoll{Log: log, Every: every,
		Scan:  func(ctx context.Context, nonce [wire.SELNonceSize]byte) { a.scanSelf(ctx, nonce, open) },
		Began: func() { a.log.Info("event log is watched", "target", a.config.Name) },
		Failed: func(err error) {
			a.log.Error("event log cannot be read", "error", err)
		}}
	for {
		err := poll.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		a.log.Error("event log cannot be read", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
		}
	}
}

// scanSelf answers a record. The nonce of such a scan is what a record carries,
// followed by zeros.
func (a *Agent) scanSelf(ctx context.Context, short [wire.SELNonceSize]byte, open opener) {
	var nonce remote.Nonce
	copy(nonce[:], short[:])
	a.log.Info("the event log asks for a scan", "target", a.config.Name)
	// What goes wrong was logged and spooled.
	_ = a.scan(ctx, measure.Target{Name: a.config.Name, Kind: "host"}, nonce, open)
}

// openSelf opens the machine the agent runs on.
func openSelf(context.Context) (measurable, error) {
	h, err := kcore.Open()
	if err != nil {
		return nil, fmt.Errorf("measure this machine: %w", err)
	}
	return h, nil
}
