// Package agent is the part of Plumbline that runs on a host: it attests its own
// boot, serves the BMCs of the virtual machines it measures from outside, watches
// their file operations, and ships what it finds to a verifier.
//
// It states facts and judges nothing. What it says is worth what its host is
// worth: a host taken over by root can stop or falsify it, which is why each scan
// is quoted by the host's TPM and judged together with the host's boot, and why
// every stream has sequence numbers that show what is missing.
//
// In the role "guest" it does nothing but attest the machine it runs in.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/oob"
	"github.com/plumbline-sec/plumbline/remote"
)

// Agent is one running agent.
type Agent struct {
	config   *Config
	log      *slog.Logger
	device   *tpm.TPM
	ak       *tpm.AK
	outbox   *outbox
	profiles kernel.Cache
	targets  []*target
	version  string
	ready    func(Ready)
}

// Ready is what an agent serves once it has started.
type Ready struct {
	// BMC is the LAN address of each target's BMC, by target name.
	BMC map[string]string
}

// Options of New. The zero value logs to the default logger.
type Options struct {
	Log     *slog.Logger
	Version string
	// Ready, if not nil, is called once when all targets are served.
	Ready func(Ready)
}

// New opens what the configuration names: the state, the TPM and its key. It
// does not connect.
func New(config *Config, opt Options) (_ *Agent, err error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	a := &Agent{config: config, log: opt.Log, version: opt.Version, ready: opt.Ready}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := os.MkdirAll(config.State, 0o700); err != nil {
		return nil, err
	}
	spool, err := durable.OpenSpool(filepath.Join(config.State, "spool"), durable.SpoolOptions{})
	if err != nil {
		return nil, err
	}
	a.outbox = &outbox{spool: spool, bodies: newBodyCache(), log: opt.Log}
	if a.device, err = tpm.Open(config.TPM.Path); err != nil {
		return nil, err
	}
	if a.ak, err = a.device.LoadOrCreateAK(filepath.Join(config.State, "ak.json")); err != nil {
		return nil, err
	}
	for _, c := range config.Targets {
		t, err := newTarget(a, c)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", c.Name, err)
		}
		a.targets = append(a.targets, t)
	}
	return a, nil
}

// Close lets go of the TPM and the spool.
func (a *Agent) Close() error {
	var errs []error
	if a.device != nil {
		errs = append(errs, a.device.Close())
	}
	if a.outbox != nil {
		errs = append(errs, a.outbox.spool.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends. It does not return because the verifier is away:
// evidence then waits in the spool.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.serveTargets(ctx); err != nil {
		return err
	}
	// Deferred before the workers start so that it runs after they ended.
	defer a.waitTargets()
	var workers sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	defer workers.Wait()
	defer stop()
	if self := a.config.Self; self.Enabled {
		// Before it enrols: what is in the log when watching begins counts as old,
		// and the verifier may ask as soon as it knows this machine.
		workers.Go(func() { a.watchLog(ctx, oob.LocalLog{Device: self.Device}, openSelf) })
	}
	client, err := a.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer client.Close()
	a.status(remote.Status{State: remote.AgentStarted})
	workers.Go(func() { a.obey(ctx, client) })
	workers.Go(func() { a.outbox.run(ctx, client) })
	workers.Go(func() { a.heartbeat(ctx) })
	for _, t := range a.targets {
		workers.Go(func() { t.watch(ctx) })
	}
	workers.Wait()
	a.farewell(client)
	return nil
}

func (a *Agent) serveTargets(ctx context.Context) error {
	ready := Ready{BMC: map[string]string{}}
	for _, t := range a.targets {
		address, err := t.serve(ctx)
		if err != nil {
			return fmt.Errorf("target %s: %w", t.config.Name, err)
		}
		if address != "" {
			ready.BMC[t.config.Name] = address
			a.log.Info("BMC", "target", t.config.Name, "address", address)
		}
	}
	if a.ready != nil {
		a.ready(ready)
	}
	return nil
}

func (a *Agent) waitTargets() {
	for _, t := range a.targets {
		t.wait()
	}
}

// connect returns a client with the certificate of this agent's enrolment,
// enrolling first if there was none. It keeps trying while the verifier is away.
func (a *Agent) connect(ctx context.Context) (*remote.AgentClient, error) {
	files := credentialsIn(a.config.State)
	trust, err := a.trust(files)
	if err != nil {
		return nil, err
	}
	certificate, err := files.load()
	if errors.Is(err, os.ErrNotExist) {
		certificate, err = a.enrol(ctx, files, trust)
	}
	if err != nil {
		return nil, err
	}
	return remote.NewAgentClient(remote.AgentOptions{Address: a.config.At.Address, Trust: trust, Certificate: certificate})
}

// trust prefers the configured authority, then the one learnt by fingerprint at
// the enrolment.
func (a *Agent) trust(files credentials) (remote.Trust, error) {
	if a.config.At.CA != "" {
		ca, err := bin.ReadFile(a.config.At.CA, maxConfig)
		if err != nil {
			return remote.Trust{}, fmt.Errorf("verifier authority: %w", err)
		}
		return remote.Trust{CA: ca}, nil
	}
	return remote.Trust{Fingerprint: a.config.At.Fingerprint}, nil
}

func (a *Agent) enrol(ctx context.Context, files credentials, trust remote.Trust) (*tls.Certificate, error) {
	client, err := remote.NewAgentClient(remote.AgentOptions{Address: a.config.At.Address, Trust: trust})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	e := &enrolment{config: a.config, device: a.device, ak: a.ak, files: files, client: client, log: a.log.Info}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		certificate, err := e.run(ctx)
		if err == nil {
			a.log.Info("enrolled", "verifier", a.config.At.Address)
			return certificate, nil
		}
		var answer *remote.Error
		final := errors.As(err, &answer) && answer.Status < 500 && answer.Code != remote.CodeRateLimited
		if final || errors.Is(err, ErrRefused) || errors.Is(err, tpm.ErrActivation) || ctx.Err() != nil {
			return nil, err
		}
		a.log.Warn("not enrolled yet", "error", err, "next_try", wait)
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// heartbeatInterval is how often an agent says that it is there.
const heartbeatInterval = 30 * time.Second

func (a *Agent) heartbeat(ctx context.Context) {
	for sleep(ctx, heartbeatInterval) == nil {
		a.status(remote.Status{State: remote.AgentRunning})
	}
}

// farewell says that the end is an orderly one, if the verifier is there to hear.
func (a *Agent) farewell(client *remote.AgentClient) {
	a.status(remote.Status{State: remote.AgentStopping})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for {
		if sent, err := a.outbox.deliver(ctx, client); err != nil || sent == 0 {
			return
		}
	}
}

// status stores a remark; one that cannot be stored is only logged, because
// there is no one else to tell.
func (a *Agent) status(s remote.Status) {
	if err := a.tell(s); err != nil {
		a.log.Error("status lost", "state", s.State, "error", err)
	}
}

// tell stores a remark.
func (a *Agent) tell(s remote.Status) error {
	s.Version, s.BootID = a.version, bootID()
	return put(a.outbox, remote.KindStatus, s)
}

// bootID changes with each boot of this machine (proc(5), random/boot_id).
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (a *Agent) collect(nonce []byte) tpm.CollectOptions {
	return tpm.CollectOptions{
		Nonce:    nonce,
		EventLog: a.config.TPM.EventLog,
		IMALog:   a.config.TPM.IMALog,
		UserLog:  a.config.TPM.UserLog,
	}
}

func (a *Agent) target(name string) (*target, error) {
	for _, t := range a.targets {
		if t.config.Name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("no target %q at this agent", name)
}
