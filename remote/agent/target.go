package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
	"github.com/plumbline-sec/plumbline/measure/oob"
	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote"
)

// target is one virtual machine that the agent sees from outside.
type target struct {
	agent  *Agent
	config TargetConfig
	bmc    *oob.BMC // nil when the agent is not its BMC
	// monitor serializes what needs the VM's monitor for long: a scan and a
	// capture of its files.
	monitor sync.Mutex
	servers sync.WaitGroup
	places  qemu.Places // of the VM's registers, from scan to scan
}

func newTarget(a *Agent, config TargetConfig) (*target, error) {
	t := &target{agent: a, config: config}
	if config.BMC.Listen == "" {
		return t, nil
	}
	users, err := config.BMC.users()
	if err != nil {
		return nil, err
	}
	link := &oob.VMLink{}
	t.bmc, err = oob.New(oob.Options{
		Users: users,
		Link:  link,
		Power: oob.QMPPower{Socket: config.QMP, Link: link},
		Scan: func(ctx context.Context, nonce [wire.NonceSize]byte) error {
			return t.scan(ctx, remote.Nonce(nonce))
		},
		Audit: func(e oob.Audit) {
			a.log.Info("BMC", "target", config.Name, "user", e.User, "action", e.Action, "result", e.Result)
		},
	})
	return t, err
}

// serve starts the target's BMC and returns its LAN address.
func (t *target) serve(ctx context.Context) (string, error) {
	if t.bmc == nil {
		return "", nil
	}
	lan, err := t.bmc.ListenLAN(t.config.BMC.Listen)
	if err != nil {
		return "", err
	}
	t.servers.Go(func() {
		if err := lan.Serve(ctx); err != nil {
			t.agent.log.Error("BMC LAN side ended", "target", t.config.Name, "error", err)
		}
	})
	if t.config.BMC.Socket == "" {
		return lan.Address(), nil
	}
	ln, err := listenUnix(t.config.BMC.Socket)
	if err != nil {
		return "", fmt.Errorf("listen for the virtual machine: %w", err)
	}
	t.servers.Go(func() {
		if err := t.bmc.ServeVM(ctx, ln); err != nil && ctx.Err() == nil {
			t.agent.log.Error("BMC system interface ended", "target", t.config.Name, "error", err)
		}
	})
	return lan.Address(), nil
}

// listenUnix listens on a socket that only this user can reach, in place of one
// that an earlier process left.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: another process is listening", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return ln, os.Chmod(path, 0o600)
}

// wait returns when the target's servers have ended and its scan is spooled.
func (t *target) wait() {
	if t.bmc != nil {
		t.bmc.Wait()
	}
	t.servers.Wait()
}

// scan answers a trigger of the target's BMC.
func (t *target) scan(ctx context.Context, nonce remote.Nonce) error {
	t.monitor.Lock()
	defer t.monitor.Unlock()
	return t.agent.scan(ctx, measure.Target{Name: t.config.Name, Kind: "vm"}, nonce, func(ctx context.Context) (measurable, error) {
		vm, err := qemu.Open(ctx, t.config.QMP)
		if err != nil {
			return nil, err
		}
		vm.Remember(&t.places)
		return vm, nil
	})
}
