package filewatch

import "time"

// Alert is something about the watch itself that whoever relies on it must
// know.
type Alert struct {
	Target string    `json:"target"`
	Time   time.Time `json:"time_dt"`
	Alert  string    `json:"alert"` // one of the constants
	// First and Lost are the sequence numbers that will not come.
	First  uint64 `json:"first_sequence,omitempty"`
	Lost   uint64 `json:"lost,omitempty"`
	Reason string `json:"reason"`
}

// The alerts.
const (
	AlertGap     = "gap"     // events were lost
	AlertRestart = "restart" // the guest was reset, or QEMU ended; until "watching" nothing is seen
	AlertWatch   = "watching"
	AlertBlind   = "blind" // something cannot be seen on this guest
)

// Stamped gives the alert its target and the time.
func (a Alert) Stamped(target string) Alert {
	a.Target, a.Time = target, time.Now().UTC()
	return a
}
