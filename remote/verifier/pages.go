package verifier

import (
	"context"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// pagesKept is how long the pages of a scan are kept: a later scan of the same
// boot may need them beside a page that changed.
const pagesKept = 24 * time.Hour

// holdPages makes the change that remembers which pages a scan had sent, so that
// they can be dropped: a scan that asked for none leaves nothing to look at.
func (v *Verifier) holdPages(ctx context.Context, scan, machine string, pages []remote.Digest) (store.Change, error) {
	held, err := loadOrNew[[]remote.Digest](ctx, v.store, inHeldPages, scan)
	if err != nil {
		return store.Change{}, err
	}
	held.V = append(held.V, pages...)
	held.Machine, held.Time = machine, v.now()
	return held.change(), nil
}

// forgetPages drops the pages that were asked for long ago.
func (v *Verifier) forgetPages(ctx context.Context) error {
	docs, err := list[[]remote.Digest](ctx, v.store, store.Query{Collection: inHeldPages})
	if err != nil {
		return err
	}
	for _, held := range docs {
		if v.now().Sub(held.Time) < pagesKept {
			continue
		}
		if err := v.store.DeleteBodies(ctx, held.V); err != nil {
			return err
		}
		if err := v.store.Apply(ctx, nil, remove(inHeldPages, held.Key)); err != nil {
			return err
		}
	}
	return nil
}
