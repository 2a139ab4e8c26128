package disk

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Untrack takes the bitmaps of a keeper out of a running machine: no scan builds on
// its last one any more.
func Untrack(ctx context.Context, socket string, last Track) error {
	return Running{Socket: socket}.Untrack(ctx, last)
}

// Untrack is the function of that name.
func (r Running) Untrack(ctx context.Context, last Track) error {
	return r.between(ctx, func(f *fleece, nodes []blockNode) error {
		t := &tracking{last: last, lost: "no longer wanted"}
		return t.discard(ctx, f, t.bitmaps(nodes))
	})
}

// between runs fn while no scan of the disks runs.
func (r Running) between(ctx context.Context, fn func(f *fleece, nodes []blockNode) error) error {
	unlock, err := lockMachine(ctx, r.Socket)
	if err != nil {
		return err
	}
	defer unlock()
	defer r.turn()()
	monitor, err := qmp.Dial(ctx, r.Socket)
	if err != nil {
		return err
	}
	defer monitor.Close()
	f := &fleece{monitor: monitor}
	nodes, err := f.nodes(ctx)
	if err == nil {
		err = fn(f, nodes)
	}
	if err != nil {
		return fmt.Errorf("machine behind %s: %w", r.Socket, err)
	}
	return nil
}
