package oob

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// QMPPower switches a VM through its monitor. It connects for each request: a
// monitor serves one client at a time, and others want it too.
//
// "Power off" leaves QEMU there with its machine shut down, as a chassis stays
// where it is. The monitor has no such command, but ipmi-bmc-extern has: QMPPower
// asks for it over the BMC's link after telling QEMU not to exit at a shutdown.
type QMPPower struct {
	Socket string  // path of the QMP socket
	Link   *VMLink // of the BMC that uses this Power
}

// runState is the answer of query-status (QEMU, qapi/run-state.json).
type runState struct {
	Running bool   `json:"running"`
	Status  string `json:"status"`
}

// On reports power as a chassis does: a paused machine has power. A monitor
// that cannot be reached means that QEMU has ended.
func (p QMPPower) On(ctx context.Context) (bool, error) {
	pid, err := qmp.PeerPID(ctx, p.Socket)
	if err != nil || pid == 0 {
		return false, nil
	}
	client, err := qmp.Dial(ctx, p.Socket)
	if err != nil {
		return false, fmt.Errorf("read power state: %w", err)
	}
	defer client.Close()
	status, err := queryStatus(ctx, client)
	if err != nil {
		return false, err
	}
	return isOn(status), nil
}

func queryStatus(ctx context.Context, client *qmp.Client) (runState, error) {
	var status runState
	if err := client.Execute(ctx, "query-status", nil, &status); err != nil {
		return status, fmt.Errorf("read power state: %w", err)
	}
	return status, nil
}

func isOn(s runState) bool { return s.Status != "shutdown" && s.Status != "guest-panicked" }

// Do performs action.
func (p QMPPower) Do(ctx context.Context, action Action) error {
	client, err := qmp.Dial(ctx, p.Socket)
	if err != nil {
		return fmt.Errorf("switch machine: %w", err)
	}
	defer client.Close()
	status, err := queryStatus(ctx, client)
	if err != nil {
		return err
	}
	on := isOn(status)
	if action == PowerDown && on {
		return p.powerDown(ctx, client)
	}
	for _, command := range commands(action, on) {
		if err := client.Execute(ctx, command, nil, nil); err != nil {
			return fmt.Errorf("switch machine: %w", err)
		}
	}
	return nil
}

func (p QMPPower) powerDown(ctx context.Context, client *qmp.Client) error {
	if p.Link == nil {
		return fmt.Errorf("switch machine off: %w", ErrNoLink)
	}
	keep := map[string]string{"shutdown": "pause"} // as -no-shutdown, since QEMU 6.0
	if err := client.Execute(ctx, "set-action", keep, nil); err != nil {
		return fmt.Errorf("switch machine off: %w", err)
	}
	// A stopped machine does not act on the request until it runs again.
	if err := client.Execute(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("switch machine off: %w", err)
	}
	return p.Link.send(controlPowerOff)
}

// commands are what an action means for a machine that is on or off. A machine
// that is off is one that QEMU stopped after shutdown: it must be reset before
// it may run.
func commands(action Action, on bool) []string {
	switch {
	case (action == PowerUp || action == PowerCycle || action == HardReset) && !on:
		return []string{"system_reset", "cont"}
	case (action == PowerCycle || action == HardReset) && on:
		return []string{"system_reset"}
	case action == SoftShutdown && on:
		return []string{"system_powerdown"}
	case action == DiagnosticNMI && on:
		return []string{"inject-nmi"}
	}
	return nil
}
