package disk

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// depthContext is QEMU's metadata context that says how deep in a chain of images
// a run lies: 1 in the image itself, 0 in none (QEMU docs/interop/nbd.txt).
const depthContext = "qemu:allocation-depth"

// OpenCopy opens a chain as a copy of the template at an index of it, which is more
// than 0. Set.Changed are the runs that the images above the template hold, so the
// only ones that can differ from it.
func OpenCopy(ctx context.Context, c Chain, template int) (*Set, error) {
	s := &Set{}
	if err := s.openCopy(ctx, c, template); err != nil {
		s.Close()
		return nil, fmt.Errorf("open disk %s over %s: %w", c[0].Path, c[template].Path, err)
	}
	return s, nil
}

func (s *Set) openCopy(ctx context.Context, c Chain, template int) error {
	client, err := s.openChain(ctx, c, []string{"--allocation-depth"}, depthContext)
	if err != nil {
		return err
	}
	runs, err := dirtyRuns(client, depthContext, func(depth uint32) bool { return depth >= 1 && depth <= uint32(template) })
	if err != nil {
		return err
	}
	s.Changed = map[int][]filewatch.Extent{0: runs}
	return nil
}
