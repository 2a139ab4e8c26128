package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// HVMTool is the program that makes a hardware-assisted domain, which is built
// of internal/lab/hvmdomain and must be among the files of the machine.
const HVMTool = "hvmdomain"

// HVM is what a hardware-assisted domain is made with.
type HVM struct {
	CPUs int  // one if zero
	Run  bool // else it stays as it is made; one that runs has one more CPU, which does not
}

// MakeHVM makes a hardware-assisted domain in a machine that boots Xen and returns
// its number. It stays until the machine ends or [Machine.EndHVM] is called. The
// machine's CPUs must have SVM.
func (m *Machine) MakeHVM(ctx context.Context, o HVM) (int, error) {
	if err := m.loadPrivcmd(ctx); err != nil {
		return 0, err
	}
	out, err := m.Shell(ctx, fmt.Sprintf("/opt/plumbline/%s -cpus %d -run=%t", HVMTool, max(o.CPUs, 1), o.Run))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// EndHVM ends a domain that MakeHVM made.
func (m *Machine) EndHVM(ctx context.Context, domain int) error {
	_, err := m.Shell(ctx, fmt.Sprintf("/opt/plumbline/%s -destroy %d", HVMTool, domain))
	return err
}

// loadPrivcmd gives the first domain /dev/xen/privcmd.
func (m *Machine) loadPrivcmd(ctx context.Context) error {
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
	_, err = m.Shell(ctx, "set -e; [ -e /dev/xen/privcmd ] || insmod "+inGuest)
	return err
}
