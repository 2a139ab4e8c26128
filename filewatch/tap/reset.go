package tap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// resets tells of resets of the guest until ctx ends. QEMU says so to whoever is connected
// at that moment (qapi/run-state.json, RESET), and remembers nothing of it.
func (s *Source) resets(ctx context.Context) {
	const soon, late = 100 * time.Millisecond, 10 * time.Second
	told := ""
	for pause := soon; ; pause = min(2*pause, late) {
		connected := false
		err := s.followResets(ctx, func() { told, pause, connected = "", soon, true })
		if ctx.Err() != nil {
			return
		}
		// That QEMU ended looks tell; a connection that ends may be the first sign of it.
		ends := connected && errors.Is(err, qmp.ErrClosed)
		if reason := err.Error(); !ends && reason != told && s.runs(ctx) {
			told = reason
			s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: "resets of the guest are not told: " + reason})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// runs says that QEMU is there.
func (s *Source) runs(ctx context.Context) bool {
	_, gone := qmp.PeerPID(ctx, s.QMP)
	return gone == nil
}

// followResets tells of them as long as a connection lasts.
func (s *Source) followResets(ctx context.Context, connected func()) error {
	monitor, err := qmp.Dial(ctx, s.Resets)
	if err != nil {
		return err
	}
	defer monitor.Close()
	events := monitor.Subscribe()
	defer events.Close()
	connected()
	for {
		e, err := events.Wait(ctx, "RESET")
		if err != nil {
			return err
		}
		var data struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(e.Data, &data) != nil || data.Reason == "" {
			data.Reason = "unknown"
		}
		s.alert(filewatch.Alert{Alert: filewatch.AlertRestart, Reason: fmt.Sprintf("the machine was reset (%s): what its guest had in memory only is gone; of what it wrote to its disks nothing is missed", data.Reason)})
		if !s.blind.Load() { // else that is told once they are
			s.alert(filewatch.Alert{Alert: filewatch.AlertWatch, Reason: "the disks are looked at as before the reset"})
		}
	}
}
