package disk

import (
	"context"
	"fmt"
)

func (s *Set) openForeign(ctx context.Context, path, format string) error {
	return fmt.Errorf("open disk %s: format %s: %w", path, format, ErrNotSupported)
}

// OpenVM opens the disks of a running machine.
func OpenVM(ctx context.Context, qmp string) (*Set, error) {
	return nil, fmt.Errorf("disks of %s: %w", qmp, ErrNotSupported)
}
