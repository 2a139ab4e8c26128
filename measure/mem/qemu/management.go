package qemu

import (
	"context"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Where firmware keeps its variables behind system management mode, as OVMF does
// for Secure Boot, each change of one takes all CPUs there for some milliseconds,
// under TCG for a second. QEMU has the handler's registers then, and says so.

// Bounds of waiting for CPUs to leave it. The machine runs meanwhile.
const (
	managementLooks     = 100
	managementLookPause = 20 * time.Millisecond
)

// inManagement is why the registers of a CPU are not known.
const inManagement = "it was in system management mode"

// outside is what the monitor shows once no CPU is in system management mode, or
// when that has been waited for.
func (vm *VM) outside(ctx context.Context) ([]mem.Registers, error) {
	for n := 1; ; n++ {
		all, err := vm.shown(ctx)
		if err != nil || n == managementLooks || !slices.ContainsFunc(all, func(r mem.Registers) bool { return r.SMM }) {
			return all, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(managementLookPause):
		}
	}
}
