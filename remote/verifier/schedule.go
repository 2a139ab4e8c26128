package verifier

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/remote/store"
)

const (
	tick      = 2 * time.Second
	housework = 10 * time.Minute
	// firstScanWithin is how soon after the start a machine that was never scanned
	// is: soon, and not all at once.
	firstScanWithin = 30 * time.Second
)

// scheduled is the cause of a scan that nobody asked for.
const scheduled = "schedule"

// schedule fires what is due and keeps states up to date with the clock.
func (v *Verifier) schedule(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var cleaned time.Time
	for {
		if err := v.onTick(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("schedule", "error", err)
		}
		if time.Since(cleaned) > housework {
			cleaned = time.Now()
			v.clean(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (v *Verifier) onTick(ctx context.Context) error {
	docs, err := list[machine](ctx, v.store, store.Query{Collection: inMachines})
	if err != nil {
		return err
	}
	for _, d := range docs {
		if d.V.Retired != nil {
			continue
		}
		v.refresh(&d.V)
		err := v.due(ctx, &d.V)
		if err == nil || errors.Is(err, errRetired) {
			err = v.reassessNow(ctx, d.V.Name)
		}
		if err != nil && !errors.Is(err, errRetired) {
			return err
		}
	}
	return v.closeOrphans(ctx)
}

// due starts what is due for one machine.
func (v *Verifier) due(ctx context.Context, m *machine) error {
	now := v.now()
	if m.enrolled() && !m.Boot.Next.IsZero() && now.After(m.Boot.Next) {
		err := v.changeMachine(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
			return v.askAttestation(ctx, m, "it is due")
		})
		if err != nil {
			return err
		}
	}
	if m.Files.Watched && m.Files.Baseline == "" && now.Sub(m.BaselineAsked) >= firstBaselineEvery {
		err := v.changeMachine(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
			return v.askFirstBaseline(ctx, m)
		})
		if err != nil {
			return err
		}
	}
	if v.lossDue(m) {
		err := v.changeMachine(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
			if asked, err := v.lossAsked(ctx, m); asked || err != nil || !v.lossDue(m) {
				return nil, cmp.Or(err, errNothing)
			}
			return v.askAboutLoss(ctx, m, "no rescan has made up for lost events yet")
		})
		if err != nil {
			return err
		}
	}
	if v.rotationDue(m) {
		err := v.changeMachine(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
			if !v.rotationDue(m) {
				return nil, errNothing
			}
			return v.askAboutRotation(ctx, m)
		})
		if err != nil {
			return err
		}
	}
	if !m.Scan.Enabled || m.Off || v.trigger == nil {
		return nil
	}
	if v.config.host(m.Name).MeasuredBy == "" && !m.enrolled() {
		return nil // nobody is there to answer, and no key to believe an answer by
	}
	if m.Scan.Next.IsZero() || now.After(m.Scan.Next) {
		return v.scanDue(ctx, m)
	}
	return nil
}

// scanDue sets the next time first, so that a scan that cannot be fired is not
// tried again at once.
func (v *Verifier) scanDue(ctx context.Context, m *machine) error {
	never := m.Scan.Next.IsZero()
	h := v.config.host(m.Name)
	err := v.changeMachine(ctx, m.Name, nil, func(m *machine) ([]store.Change, error) {
		m.Scan.Next = v.now().Add(h.scanEvery() + randomUpTo(h.scanJitter()))
		if never {
			m.Scan.Next = v.now().Add(randomUpTo(min(v.firstScan, h.scanEvery())))
		}
		return nil, nil
	})
	if err != nil || never {
		return err
	}
	_, err = v.startScan(ctx, m.Name, scheduled)
	return err
}

// reassessNow derives a machine's state anew, since time passes; it writes
// only what changed.
func (v *Verifier) reassessNow(ctx context.Context, name string) error {
	return v.changeMachine(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		before := m.State
		probe := *m
		changes, err := v.reassess(ctx, &probe)
		if err == nil && len(changes) == 0 && probe.State == before && slices.Equal(m.Reasons, probe.Reasons) {
			err = errNothing
		}
		return nil, err
	})
}

// clean forgets what nobody will ask for again.
func (v *Verifier) clean(ctx context.Context) {
	for _, forget := range []func(context.Context) error{v.expireEnrolments, v.forgetNonces, v.forgetSessions, v.forgetPages, v.expireCommands, v.expirePages, v.forgetOld} {
		if err := forget(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("clean up", "error", err)
		}
	}
}

// randomUpTo is a random duration in [0, most).
func randomUpTo(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}
