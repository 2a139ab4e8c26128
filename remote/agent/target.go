package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
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

// scanLimit bounds one scan. A monitor that hangs must not keep the BMC busy for
// ever: the next trigger has to find it free.
const scanLimit = 10 * time.Minute

// scan answers a trigger: measure, quote, spool. What goes wrong is spooled too:
// a trigger without any answer could not be told from an agent that is gone.
func (t *target) scan(ctx context.Context, nonce remote.Nonce) error {
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	var record *remote.Scan
	var pages check.Pages
	err := guard(func() (err error) {
		record, pages, err = t.measure(ctx, nonce)
		return err
	})
	if err == nil {
		t.agent.outbox.bodies.keepScan(t.config.Name, pages)
		err = put(t.agent.outbox, remote.KindScan, record)
	}
	if err == nil {
		return nil
	}
	t.agent.log.Error("scan failed", "target", t.config.Name, "error", err)
	failed := &remote.Scan{Target: t.config.Name, Nonce: nonce, Error: shortened(err)}
	return errors.Join(err, put(t.agent.outbox, remote.KindScan, failed))
}

// maxReason bounds, in bytes, what a record says of an error: targets have a
// part in the text.
const maxReason = 4 << 10

func shortened(err error) string {
	text := err.Error()
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	return text
}

// guard turns a panic into an error. What targets hold is hostile: a panic is a
// bug, but one target must not end the measuring of all.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return f()
}

func (t *target) measure(ctx context.Context, nonce remote.Nonce) (*remote.Scan, check.Pages, error) {
	t.monitor.Lock()
	defer t.monitor.Unlock()
	vm, err := qemu.Open(ctx, t.config.QMP)
	if err != nil {
		return nil, nil, err
	}
	result, err := check.Scan(ctx, vm, &check.Options{
		Target:   measure.Target{Name: t.config.Name, Kind: "vm"},
		Nonce:    nonce[:],
		Profiles: &t.agent.profiles,
	})
	if err := errors.Join(err, vm.Close()); err != nil {
		return nil, nil, err
	}
	encoded, err := result.Observations.Encode()
	if err != nil {
		return nil, nil, fmt.Errorf("encode observations: %w", err)
	}
	bound := measure.Bind(nonce[:], encoded)
	quote, signature, err := t.agent.device.Quote(t.agent.ak, bound[:], attest.Selection{Algorithm: "sha256", PCRs: tpm.DefaultPCRs})
	if err != nil {
		return nil, nil, fmt.Errorf("quote the scan: %w", err)
	}
	t.agent.log.Info("scanned", "target", t.config.Name, "pause", result.Observations.PauseNS, "elapsed", result.Observations.ElapsedNS)
	return &remote.Scan{
		Target: t.config.Name, Nonce: nonce, Observations: encoded,
		Quote: quote, Signature: signature, AKPublic: t.agent.ak.Public(),
	}, result.Pages, nil
}
