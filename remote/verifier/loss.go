package verifier

import (
	"context"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// longestLossPause bounds the time after which a rescan for lost events that failed is
// asked for again: as long as the loss is ago, so that one that can never be done is not
// tried without end every minute.
const longestLossPause = time.Hour

// lose asks for a rescan that makes up for lost events, and for another one where one is
// under way, which may have looked before.
func (v *Verifier) lose(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	now := v.now()
	switch {
	case m.Files.Baseline == "":
		return nil, nil
	case m.Lost.IsZero():
		m.Lost = now
	case m.LostCommand != 0 && m.LostCommand != m.rescan:
		m.LostAgain = true
		return nil, nil
	case m.LostCommand != 0:
		return nil, nil // it is only being asked for
	}
	if now.Before(m.LostNext) {
		return nil, nil // the schedule asks
	}
	return v.askAboutLoss(ctx, m, why)
}

// askAboutLoss asks for that rescan, again or for the first time.
func (v *Verifier) askAboutLoss(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	m.LostAsked, m.LostAgain, m.LostNext = v.now(), false, noTime
	changes, err := v.askRescan(ctx, m, why)
	m.LostCommand = m.rescan
	return changes, err
}

// askRescan asks for a rescan, once in one change of a machine: its number is m.rescan.
func (v *Verifier) askRescan(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	if m.rescan != 0 {
		return nil, nil
	}
	changes, err := v.askFiles(ctx, m, remote.CommandRescan, "", why)
	m.rescan = commandID(changes)
	return changes, err
}

// lossTold ends the loss that a capture makes up for: one that was asked for when it was
// known, unless more was lost since, for which the schedule asks again after a pause as
// long as the rescan took.
func (v *Verifier) lossTold(m *machine, command uint64) {
	if m.LostCommand == 0 || command < m.LostCommand {
		return // it may have looked before
	}
	if !m.LostAgain {
		m.Lost = noTime
	}
	now := v.now()
	m.LostNext = now.Add(max(v.rotationPause, now.Sub(m.LostAsked)))
	m.LostCommand, m.LostAgain = 0, false
}

// lossNotTold notes that the rescan failed; the schedule asks again.
func (v *Verifier) lossNotTold(m *machine) {
	now := v.now()
	m.LostNext = now.Add(min(max(v.rotationPause, now.Sub(m.Lost)), longestLossPause))
	m.LostCommand, m.LostAgain = 0, false
}

// lossDue says that the rescan is to be asked for: nobody did yet, or nothing came of it,
// unless its command still waits for the agent.
func (v *Verifier) lossDue(m *machine) bool {
	now := v.now()
	if m.Lost.IsZero() || m.MeasuredBy == "" || m.Files.Baseline == "" {
		return false
	}
	if m.LostCommand != 0 {
		return now.Sub(m.LostAsked) >= rotationPatience
	}
	return !now.Before(m.LostNext)
}

// lossAsked says whether the agent has not yet done with the command for that rescan.
func (v *Verifier) lossAsked(ctx context.Context, m *machine) (bool, error) {
	if m.LostCommand == 0 {
		return false, nil
	}
	_, err := load[remote.Command](ctx, v.store, inCommands, commandKey(m.MeasuredBy, m.LostCommand))
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
