package agent

import (
	"context"
	"errors"
)

func (t *target) baseline(ctx context.Context, command uint64) error {
	return errors.New("baselines are not wired yet")
}
