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

// lose asks for a rescan that makes up for lost events, once.
func (v *Verifier) lose(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	if !m.Lost.IsZero() || m.Files.Baseline == "" {
		return nil, nil
	}
	m.Lost = v.now()
	return v.askAboutLoss(ctx, m, why)
}

// askAboutLoss asks for that rescan, again or for the first time.
func (v *Verifier) askAboutLoss(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	m.LostNext = noTime
	changes, err := v.askFiles(ctx, m, remote.CommandRescan, "", why)
	m.LostCommand = commandID(changes)
	return changes, err
}

// lossNotTold notes that the rescan failed; the schedule asks again.
func (v *Verifier) lossNotTold(m *machine) {
	now := v.now()
	m.LostNext = now.Add(min(max(v.rotationPause, now.Sub(m.Lost)), longestLossPause))
}

// lossDue says that the rescan is to be asked for again.
func (v *Verifier) lossDue(m *machine) bool {
	return !m.Lost.IsZero() && !m.LostNext.IsZero() && !v.now().Before(m.LostNext) && m.MeasuredBy != "" && m.Files.Baseline != ""
}
