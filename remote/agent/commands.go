package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/remote"

	"encoding/json"
)

// commandWait is how long the verifier may hold a request for commands.
const commandWait = 50 * time.Second

// obey asks for commands and carries them out until ctx ends. A command that
// fails is answered with its reason.
func (a *Agent) obey(ctx context.Context, client *remote.AgentClient) {
	o := &orders{
		do: func(ctx context.Context, c remote.Command) error {
			return guard(func() error { return a.carryOut(ctx, client, c) })
		},
		failed: func(c remote.Command, err error) {
			a.log.Error("command failed", "command", c.Kind, "target", c.Target, "error", err)
			a.status(remote.Status{State: remote.CommandFailed, Target: c.Target, Command: c.ID, Detail: shortened(err)})
		},
	}
	defer o.captures.Wait()
	wait := time.Second
	for ctx.Err() == nil {
		commands, err := client.Commands(ctx, o.acknowledged(), commandWait)
		if err != nil {
			if ctx.Err() == nil && refusedAsRetired(err) {
				a.log.Error(retiredMessage, "error", err, "next_try", retiredPause)
				sleep(ctx, retiredPause)
				continue
			}
			if ctx.Err() == nil {
				a.log.Warn("no commands from the verifier", "error", err, "next_try", wait)
			}
			sleep(ctx, wait)
			wait = min(2*wait, time.Minute)
			continue
		}
		wait = time.Second
		if o.take(ctx, commands) == 0 && len(commands) > 0 {
			// All that is open waits for a capture: the answer came at once.
			sleep(ctx, captureLook)
		}
	}
}

func (a *Agent) carryOut(ctx context.Context, client *remote.AgentClient, c remote.Command) error {
	a.log.Info("command", "command", c.Kind, "target", c.Target, "reason", c.Reason)
	switch c.Kind {
	case remote.CommandAttest:
		if c.Nonce == nil {
			return fmt.Errorf("attest: no nonce")
		}
		return a.attest(*c.Nonce)
	case remote.CommandBodies:
		gone, err := a.outbox.sendBodies(ctx, client, c.Digests)
		if err == nil && gone > 0 {
			err = fmt.Errorf("%d of %d bodies: %w", gone, len(c.Digests), errBodyGone)
		}
		return err
	case remote.CommandBaseline:
		target, err := a.target(c.Target)
		if err != nil {
			return err
		}
		return target.baseline(ctx, c.ID, c.Logs)
	case remote.CommandRescan:
		target, err := a.target(c.Target)
		if err != nil {
			return err
		}
		return target.baseline(ctx, c.ID, c.Logs)
	}
	return fmt.Errorf("command %q is not known to this agent", c.Kind)
}

// attest answers the verifier's challenge with the evidence of this boot.
func (a *Agent) attest(nonce remote.Nonce) error {
	evidence, err := a.device.Collect(a.ak, a.collect(nonce[:]))
	if err != nil {
		return fmt.Errorf("collect evidence: %w", err)
	}
	return a.sendEvidence(nonce, evidence)
}

func (a *Agent) sendEvidence(nonce remote.Nonce, evidence *attest.Evidence) error {
	raw, err := evidence.Encode()
	if err != nil {
		return fmt.Errorf("encode evidence: %w", err)
	}
	return put(a.outbox, remote.KindAttestation,
		remote.Attestation{Target: a.config.Name, Nonce: nonce, Evidence: json.RawMessage(raw)})
}
