package verifier

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// takeStatus handles an agent's remark.
func (v *Verifier) takeStatus(ctx context.Context, r store.Record, s *remote.Status) error {
	name := s.Target
	if name == "" {
		name = r.Stream.Agent
	}
	agent, err := v.targetOf(ctx, r, name)
	if err != nil {
		return err
	}
	return v.changeBy(ctx, r, name, []int64{r.ID}, func(m *machine) ([]store.Change, error) {
		m.LastSeen = r.Received
		note := func(severity remote.Severity, kind, text string) []store.Change {
			return v.moment(remote.Moment{Machine: m.Name, Kind: kind, Severity: severity, Text: text, Time: r.Received})
		}
		switch s.State {
		case remote.AgentRunning:
			return nil, nil
		case remote.AgentStarted:
			return v.agentStarted(ctx, m, s, note)
		case remote.AgentStopping:
			return note(remote.SeverityInfo, "agent", "the agent on "+m.Name+" stops"), nil
		case remote.TargetRebooting:
			m.RebootingSince, m.Off = r.Received, false
			return v.watchLost(ctx, m, s, note(remote.SeverityNotice, "boot", m.Name+" is being restarted"))
		case remote.TargetRunning:
			m.RebootingSince, m.Off = noTime, false
			return note(remote.SeverityInfo, "boot", m.Name+" runs"), nil
		case remote.TargetOff:
			m.RebootingSince, m.Off = noTime, true
			return note(remote.SeverityNotice, "boot", m.Name+" was powered off"), nil
		case remote.WatchStarted:
			m.Watcher = agent.V.tag()
			return v.watchStarted(ctx, m, s, note)
		case remote.WatchInterrupted:
			m.Files.Watched = false
			return note(remote.SeverityWarning, "loss", "file operations on "+m.Name+" are no longer watched: "+s.Detail), nil
		case remote.WatchNotice:
			return v.watchLost(ctx, m, s, note(remote.SeverityWarning, "loss", "the watch on "+m.Name+": "+s.Detail))
		case remote.CommandFailed:
			return v.commandFailed(ctx, m, s, note)
		}
		return nil, &badRecordError{fmt.Errorf("unknown state %q", s.State)}
	})
}

type noteFunc func(severity remote.Severity, kind, text string) []store.Change

// watchStarted notes how a machine's file operations are watched from now on. What was
// done since an earlier watch ended nobody saw, whether there is an event after it or not.
func (v *Verifier) watchStarted(ctx context.Context, m *machine, s *remote.Status, note noteFunc) ([]store.Change, error) {
	m.Files.Watched = true
	text := "file operations on " + m.Name + " are watched"
	if s.Source == "disk" {
		text += " on the disk path, which does not show who does them"
	}
	changes := note(remote.SeverityInfo, "file", text)
	if s.Detail != "" && s.Detail != m.Stream && remote.CheckName(s.Detail) == nil {
		if m.Stream != "" {
			changes = append(changes, note(remote.SeverityWarning, "loss", watchAnew(m))...)
		}
		more, err := v.lose(ctx, m, lostAnew)
		if err != nil {
			return nil, err
		}
		changes = append(changes, more...)
		m.begin(s.Detail)
	}
	more, err := v.askFirstBaseline(ctx, m)
	return append(changes, more...), err
}

// watchLost asks for a rescan where a watch says that it lost events: there may be no
// later one whose number tells.
func (v *Verifier) watchLost(ctx context.Context, m *machine, s *remote.Status, changes []store.Change) ([]store.Change, error) {
	if s.Lost == 0 {
		return changes, nil
	}
	if m.LostFirst == 0 || s.First != m.LostLast+1 {
		m.LostFirst = s.First
	}
	m.LostLast = s.First + s.Lost - 1
	more, err := v.lose(ctx, m, lostEvents)
	return append(changes, more...), err
}

// agentStarted asks a machine that may have booted anew to attest.
func (v *Verifier) agentStarted(ctx context.Context, m *machine, s *remote.Status, note noteFunc) ([]store.Change, error) {
	text := "the agent on " + m.Name + " started"
	if s.Version != "" {
		text += ", version " + s.Version
	}
	if m.BootID != "" && m.BootID != s.BootID {
		text += ", after a restart of the machine"
	}
	m.BootID, m.RebootingSince, m.Off = s.BootID, noTime, false
	changes := note(remote.SeverityInfo, "agent", text)
	more, err := v.askAttestation(ctx, m, "its agent started")
	return append(changes, more...), err
}

// commandFailed notes what an agent could not do; a scan that waits for pages
// it no longer has cannot be judged.
func (v *Verifier) commandFailed(ctx context.Context, m *machine, s *remote.Status, note noteFunc) ([]store.Change, error) {
	changes := note(remote.SeverityWarning, "agent", fmt.Sprintf("the agent on %s could not do as asked: %s", m.Name, s.Detail))
	if s.Command != 0 && s.Command == m.RotationCommand {
		v.pauseRotation(m) // the schedule asks again
	}
	if s.Command != 0 && s.Command == m.LostCommand && !m.Lost.IsZero() {
		v.lossNotTold(m)
	}
	more, err := v.abandonScan(ctx, s.Command, s.Detail)
	if err != nil {
		return nil, err
	}
	forget, err := v.forgetAsked(ctx, s.Command, m.Name)
	return append(append(changes, more...), forget...), err
}
