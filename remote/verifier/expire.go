package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// How long is remembered what may never be asked for again.
const (
	// bodiesLife is how long pages may be asked for: the agent has them for ten
	// minutes, and the scan is over soon after.
	bodiesLife = time.Hour
	// askedKept is how long a capture may be under way, in the spool of an agent
	// that is cut off. One that comes later is compared and replaces nothing.
	askedKept = nonceKept
	// pageKeysKept is how long a page that no scan showed stays accepted; then it
	// is asked for and judged anew.
	pageKeysKept = 30 * 24 * time.Hour
)

// stale says that nothing good can come of a command any more. An agent that was
// away for a week would else answer a thousand challenges that have expired, each
// of which is refused as what it then is.
func stale(c *doc[remote.Command], now time.Time) bool {
	switch c.V.Kind {
	case remote.CommandAttest:
		return now.Sub(c.Time) > attestationLife
	case remote.CommandBodies:
		return now.Sub(c.Time) > bodiesLife
	}
	return false
}

// expireCommands drops stale commands, and what was asked so long ago that no
// answer is expected: unless its command still waits for the agent.
func (v *Verifier) expireCommands(ctx context.Context) error {
	commands, err := list[remote.Command](ctx, v.store, store.Query{Collection: inCommands})
	if err != nil {
		return err
	}
	var drop []store.Change
	open := make(map[string]bool)
	for _, c := range commands {
		if stale(c, v.now()) {
			drop = append(drop, remove(inCommands, c.Key))
			continue
		}
		open[fmt.Sprint(c.V.ID)] = true
	}
	old, err := v.store.List(ctx, store.Query{Collection: inAsked, Until: v.now().Add(-askedKept), Bare: true})
	if err != nil {
		return err
	}
	for _, d := range old {
		if !open[d.Key] {
			drop = append(drop, remove(inAsked, d.Key))
		}
	}
	return v.store.Apply(ctx, nil, drop...)
}

// forgetAsked is the change that forgets what a command of a machine was for:
// none if it was for nothing.
func (v *Verifier) forgetAsked(ctx context.Context, command uint64, machine string) ([]store.Change, error) {
	d, err := load[asked](ctx, v.store, inAsked, fmt.Sprint(command))
	if isNotFound(err) || err == nil && d.V.Machine != machine {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []store.Change{remove(inAsked, d.Key)}, nil
}

// expirePages drops page keys that were not used for long.
func (v *Verifier) expirePages(ctx context.Context) error {
	before := v.now().Add(-pageKeysKept)
	v.refs.forgetKnown(before)
	for {
		old, err := v.store.List(ctx, store.Query{Collection: inPages, Until: before, Limit: forgetAtOnce, Bare: true})
		if err != nil || len(old) == 0 {
			return err
		}
		drop := make([]store.Change, len(old))
		for i, d := range old {
			drop[i] = remove(inPages, d.Key)
		}
		if err := v.store.Apply(ctx, nil, drop...); err != nil {
			return err
		}
	}
}
