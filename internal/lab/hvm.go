package lab

import (
	"context"
	"errors"
	"fmt"
)

// HVMTool is the program that makes a hardware-assisted domain, which is built
// of internal/lab/hvmdomain and must be among the files of the machine.
const HVMTool = "hvmdomain"

// MakeHVM makes a hardware-assisted domain in a machine that boots Xen, with one
// CPU and some memory, that is never run. It stays until the machine ends. The
// CPUs must have SVM.
func (m *Machine) MakeHVM(ctx context.Context) error {
	if m.Xen == "" {
		return errors.New("the machine boots no Xen")
	}
	tree, err := openModuleTree(m.Modules)
	if err != nil {
		return err
	}
	module, err := tree.read("xen-privcmd")
	if err != nil {
		return err
	}
	const inGuest = "/run/xen-privcmd.ko"
	result, err := m.ExecInput(ctx, module, "sh", "-c", "cat >"+inGuest)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%w: %s", errExecStatus, result.Stderr)
	}
	if err != nil {
		return err
	}
	_, err = m.Shell(ctx, "set -e; [ -e /dev/xen/privcmd ] || insmod "+inGuest+"; /opt/plumbline/"+HVMTool)
	return err
}
