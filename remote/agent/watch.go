package agent

import "context"

func (t *target) watch(ctx context.Context) {}
