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

// domainAttempts is how many domains are made until one is seen to run. On a machine
// under heavy load one of seven found zeros where its program was written, and ended
// with a triple fault; why was not found.
const domainAttempts = 3

var errNeverRuns = errors.New("no CPU was seen to run the domain")

// MakeHVM makes a hardware-assisted domain in a machine that boots Xen and returns
// its number; one that is to run has been seen to. It stays until the machine ends or
// [Machine.EndHVM] is called. The machine's CPUs must have SVM.
func (m *Machine) MakeHVM(ctx context.Context, o HVM) (int, error) {
	if err := m.loadPrivcmd(ctx); err != nil {
		return 0, err
	}
	if !o.Run {
		return m.makeHVM(ctx, o)
	}
	var failed error
	for range domainAttempts {
		domain, err := m.makeHVM(ctx, o)
		if err == nil {
			err = m.seenInDomain(ctx)
		}
		if !errors.Is(err, errNeverRuns) {
			return domain, err
		}
		if failed = errors.Join(failed, err, m.EndHVM(ctx, domain)); ctx.Err() != nil {
			break
		}
	}
	return 0, failed
}

func (m *Machine) makeHVM(ctx context.Context, o HVM) (int, error) {
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
