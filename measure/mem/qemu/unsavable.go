package qemu

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// maxReasons bounds the reasons of a migration's being blocked that are looked at.
const maxReasons = 256

// harmless are parts of reasons for which QEMU sends no machine elsewhere and that
// have nothing to do with writing the state of its devices: what a processor has of
// its host (target/i386/kvm/kvm.c), and formats of disks that two processes cannot
// share (block/vdi.c and its like).
var harmless = []string{
	"(invtsc flag)", "Nested VMX virtualization", "CPU flag prevents migration",
	"format used by node",
}

// savable returns an error if QEMU may not survive writing the state of its devices.
//
// A device that no migration can send has no description of its state, and
// "xen-save-devices-state", unlike a migration, does not ask for that: QEMU 7.2
// to 11.1 end with a segmentation fault, and the machine with them. Such are the
// host's directories by virtiofs, network cards by USB and, until 10.0, emulated
// NVMe disks. Since 6.0 "query-migrate" says which devices these are; devices with
// other reasons (as that a graphics card draws on the host's) may do no better, so
// that only those that are known to be harmless are let pass. A device that is
// plugged in between the two commands is missed.
func (vm *VM) savable(ctx context.Context) error {
	if v := vm.client.Version; v.Major < 6 {
		return fmt.Errorf("%w, and QEMU %d.%d does not say whether it survives writing it", ErrNoDeviceState, v.Major, v.Minor)
	}
	var migration struct {
		Reasons []string `json:"blocked-reasons"`
	}
	if err := vm.client.Execute(ctx, "query-migrate", nil, &migration); err != nil {
		return fmt.Errorf("%w: %w", ErrNoDeviceState, err)
	}
	for i, reason := range migration.Reasons {
		known := slices.ContainsFunc(harmless, func(part string) bool { return strings.Contains(reason, part) })
		if i == maxReasons || !known {
			return fmt.Errorf("%w, which QEMU might not survive writing: %q", ErrNoDeviceState, reason)
		}
	}
	return nil
}
