package verifier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// machine is what is stored of one host or target, beyond what people see.
type machine struct {
	remote.Machine

	EKPublic []byte `json:"ek_public,omitempty"`
	AKPublic []byte `json:"ak_public,omitempty"`

	// Spool is the one that its agent sends from.
	Spool string `json:"spool,omitempty"`
	// Appraised is the TPM's reset count that the last boot appraisal saw.
	Appraised  uint32 `json:"appraised_reset,omitempty"`
	HasReset   bool   `json:"has_reset,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	BootPolicy bool   `json:"boot_policy,omitempty"`

	// RebootingSince is zero unless the machine is known to be restarting.
	RebootingSince time.Time `json:"rebooting_since,omitzero"`
	// Off says that the machine was switched off through its BMC.
	Off bool `json:"off,omitempty"`

	// Stream is that of its file events, Sequence the last number seen in it.
	Stream   string `json:"stream,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"`
	// LostFirst to LostLast are the numbers of that stream which the watch itself said
	// will not come, 0 for none.
	LostFirst uint64 `json:"lost_first,omitempty"`
	LostLast  uint64 `json:"lost_last,omitempty"`
	// BaselineAsked is when the first baseline was last asked for.
	BaselineAsked time.Time `json:"baseline_asked,omitzero"`
	// Lost says since when events are missing and no rescan has made up for it.
	Lost time.Time `json:"lost,omitzero"`
	// LostCommand asked for that rescan at LostAsked, 0: it is still to be asked for.
	// LostAgain says that more was lost since. No other rescan is asked for on that account
	// before LostNext.
	LostCommand uint64    `json:"lost_command,omitempty"`
	LostAsked   time.Time `json:"lost_asked,omitzero"`
	LostAgain   bool      `json:"lost_again,omitempty"`
	LostNext    time.Time `json:"lost_next,omitzero"`
	// Rotated is when an event looked like a log's rotation, of which no rescan has told
	// yet whether it was one (LogMoved), or did not tell all that was done (Unjudged): at
	// least one of them, the former where neither is set. RotationCommand asked for that rescan at RotationAsked, 0:
	// it is still to be asked for. RotatedAgain says that there was another such event
	// since. No other rescan is asked for on that account before RotationNext.
	Rotated         time.Time `json:"rotated,omitzero"`
	LogMoved        bool      `json:"log_moved,omitempty"`
	Unjudged        bool      `json:"unjudged,omitempty"`
	RotationCommand uint64    `json:"rotation_command,omitempty"`
	RotationAsked   time.Time `json:"rotation_asked,omitzero"`
	RotatedAgain    bool      `json:"rotated_again,omitempty"`
	RotationNext    time.Time `json:"rotation_next,omitzero"`
	// Gaps are what could not be read when the files were last compared: how many of each,
	// by review item.
	Gaps map[string]int `json:"gaps,omitempty"`
	// Verdict is when the scan was fired that Scan tells of, and Scanner the tag of the host
	// that took it. Watcher is the tag of the host that was last heard to watch the files.
	Verdict time.Time `json:"verdict,omitzero"`
	Scanner string    `json:"scanner,omitempty"`
	Watcher string    `json:"watcher,omitempty"`

	// Began is when the name began to stand for this machine and no longer for one that
	// was retired, and Prior the ID of that one: zero and empty if there was none. While
	// Retired is set the name stands for nobody.
	Began time.Time `json:"began,omitzero"`
	Prior string    `json:"prior,omitempty"`
	// Dropped says that somebody reported about the machine after it was retired.
	Dropped bool `json:"dropped,omitempty"`

	rescan uint64 // the command that asks for one, made by the change that is under way
}

// begin notes that events come with numbers of a stream from now on.
func (m *machine) begin(stream string) {
	m.Stream, m.Sequence, m.LostFirst, m.LostLast = stream, 0, 0, 0
}

// toldLost says that the watch itself told of the loss of these numbers.
func (m *machine) toldLost(first, last uint64) bool {
	return m.LostFirst > 0 && m.LostFirst <= first && last <= m.LostLast
}

// tag tells the machine from those that had its name before, in keys of what is stored
// of it.
func (m *machine) tag() string {
	return cmp.Or(m.Prior, m.Name)
}

// isOther says that a tag that was noted of a host is not that of this one. What an
// earlier version did not note is taken for one of the first that had the name.
func (m *machine) isOther(tag string) bool { return cmp.Or(tag, m.Name) != m.tag() }

// enrolled says whether a TPM stands for the machine.
func (m *machine) enrolled() bool { return len(m.AKPublic) > 0 }

// loadMachine reads a machine, or makes one that nobody has heard of.
func (v *Verifier) loadMachine(ctx context.Context, name string) (*doc[machine], error) {
	d, err := loadOrNew[machine](ctx, v.store, inMachines, name)
	if err != nil {
		return nil, err
	}
	if d.Version == 0 {
		d.Machine = name // of the document
		d.Time = v.now()
		d.V = v.newMachine(name)
	}
	v.refresh(&d.V)
	return d, nil
}

// newMachine is a machine that nobody has heard of.
func (v *Verifier) newMachine(name string) machine {
	m := machine{Machine: remote.Machine{Name: name, Role: remote.RoleGuest, MeasuredBy: v.config.host(name).MeasuredBy, State: remote.StateUnknown, Since: v.now()}}
	if v.measuresOthers(name) {
		m.Role = remote.RoleHost
	}
	return m
}

// measuresOthers says whether any configured target is measured by name.
func (v *Verifier) measuresOthers(name string) bool {
	return slices.ContainsFunc(v.config.Hosts, func(h Host) bool { return h.MeasuredBy == name })
}

// refresh sets what follows from the configuration of today.
func (v *Verifier) refresh(m *machine) {
	h := v.config.host(m.Name)
	if h.MeasuredBy != "" {
		m.MeasuredBy = h.MeasuredBy
	}
	m.Boot.Enabled, m.Boot.Missing = false, ""
	switch {
	case !m.enrolled():
		m.Boot.Missing = "no agent with a TPM has enrolled as " + m.Name
	case v.policyOf(m.Name) == nil:
		m.Boot.Missing = "no attestation policy: set policy = \"FILE\" for this host"
	default:
		m.Boot.Enabled = true
	}
	m.Scan.Enabled, m.Scan.Missing = h.BMC != nil, ""
	if h.BMC == nil {
		m.Scan.Missing = "no BMC to fire a scan through: set [host.bmc] for this host"
	}
}

// errNothing tells changeMachine that there is nothing to write.
var errNothing = errors.New("nothing to change")

// changeMachine reads a machine, lets decide change it and say what else to
// write, and applies it all with processed in one commit; then it tells the
// stream. decide runs again when another writer was faster. A retired machine is
// errRetired: nothing changes it.
func (v *Verifier) changeMachine(ctx context.Context, name string, processed []int64, decide func(*machine) ([]store.Change, error)) error {
	return v.changeName(ctx, name, processed, func(m *machine) ([]store.Change, error) {
		if m.Retired != nil {
			return nil, retiredError(name)
		}
		return decide(m)
	})
}

// changeName is changeMachine of a name, which may stand for nobody: its machine was
// retired.
func (v *Verifier) changeName(ctx context.Context, name string, processed []int64, decide func(*machine) ([]store.Change, error)) error {
	err := again(func() error {
		d, err := v.loadMachine(ctx, name)
		if err != nil {
			return err
		}
		changes, err := decide(&d.V)
		if err != nil {
			return err
		}
		moment, err := v.reassess(ctx, &d.V)
		if err != nil {
			return err
		}
		changes = append(changes, moment...)
		return v.apply(ctx, processed, append(changes, d.change())...)
	})
	if err != nil && !errors.Is(err, errNothing) {
		return fmt.Errorf("machine %s: %w", name, err)
	}
	return nil
}

// reassess derives the machine's state and, when it changed, says so.
func (v *Verifier) reassess(ctx context.Context, m *machine) ([]store.Change, error) {
	if m.Retired != nil {
		return nil, nil
	}
	var host *machine
	if m.MeasuredBy != "" {
		d, err := v.loadMachine(ctx, m.MeasuredBy)
		if err != nil {
			return nil, err
		}
		host = &d.V
	}
	state, reasons := v.assess(m, host, v.now())
	m.Reasons = reasons
	if state == m.State {
		return nil, nil
	}
	text := fmt.Sprintf("%s is now %s (was %s)", m.Name, state, m.State)
	if len(reasons) > 0 {
		text += ": " + reasons[0]
	}
	severity := remote.SeverityNotice
	if state == remote.StateUntrusted {
		severity = remote.SeverityAlert
	}
	m.State, m.Since = state, v.now()
	return v.moment(remote.Moment{Machine: m.Name, Kind: "state", Severity: severity, Text: text}), nil
}

// apply writes and then tells the stream what was written.
func (v *Verifier) apply(ctx context.Context, processed []int64, changes ...store.Change) error {
	if err := v.store.Apply(ctx, processed, changes...); err != nil {
		return err
	}
	for _, c := range changes {
		v.hub.tell(c)
	}
	return nil
}

// moment makes the changes that put a line on the timeline and, when it
// matters enough, into the outbox of alerts.
func (v *Verifier) moment(m remote.Moment) []store.Change {
	if m.Time.IsZero() {
		m.Time = v.now()
	}
	if m.ID == "" {
		m.ID = newID()
	}
	changes := []store.Change{put(inMoments, m.ID, m.Machine, m.Time, m)}
	if m.Severity != remote.SeverityInfo && v.alerts != nil {
		changes = append(changes, put(inOutbox, m.ID, m.Machine, m.Time, m))
	}
	return changes
}
