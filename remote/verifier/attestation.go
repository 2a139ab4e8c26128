package verifier

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// attestationLife is how long an agent may take to answer. It is generous: an
// agent that lost the verifier answers from its spool later.
const attestationLife = 15 * time.Minute

var noTime time.Time

// askAttestation makes the changes that ask a machine's agent to attest. m is
// changed, the caller writes it.
func (v *Verifier) askAttestation(ctx context.Context, m *machine, why string) ([]store.Change, error) {
	if !m.enrolled() {
		return nil, nil
	}
	nonce, remember := v.issueNonce(m.Name, forAttestation, remote.NonceSize, attestationLife)
	command, err := v.command(ctx, m.Name, remote.Command{Kind: remote.CommandAttest, Target: m.Name, Nonce: &nonce, Reason: why})
	if err != nil {
		return nil, err
	}
	m.Boot.LastAttempt = v.now()
	m.Boot.Next = v.now().Add(v.config.host(m.Name).attestEvery())
	return append(command, remember), nil
}

// takeAttestation appraises the evidence in a record.
func (v *Verifier) takeAttestation(ctx context.Context, r store.Record, a *remote.Attestation) error {
	if a.Target != r.Stream.Agent {
		return &badRecordError{fmt.Errorf("it is about %q: an agent attests only its own machine", a.Target)}
	}
	evidence, err := attest.DecodeEvidence(a.Evidence)
	if err != nil {
		return &badRecordError{err}
	}
	// Before its bulk is kept: a nonce that is not ours costs an agent nothing.
	if _, err := v.useNonce(ctx, a.Nonce, a.Target, forAttestation, r.Received); err != nil {
		return err
	}
	digest := remote.DigestOf(a.Evidence)
	if err := v.store.PutBodies(ctx, map[remote.Digest][]byte{digest: a.Evidence}); err != nil {
		return err
	}
	return v.changeBy(ctx, r, a.Target, []int64{r.ID}, func(m *machine) ([]store.Change, error) {
		used, err := v.useNonce(ctx, a.Nonce, m.Name, forAttestation, r.Received)
		if err != nil {
			return nil, err
		}
		m.LastSeen = r.Received
		before, reset := m.Boot.Outcome, m.Appraised
		appraisal := v.appraise(m, evidence, a.Nonce)
		appraisal.ID, appraisal.At, appraisal.Evidence = newID(), r.Received, digest
		m.Boot.ID, m.Boot.Outcome, m.Boot.LastSuccess, m.Boot.Error = appraisal.ID, appraisal.Outcome, r.Received, ""
		m.RebootingSince = noTime
		changes := []store.Change{used, create(inAppraisals, appraisal.ID, m.Name, r.Received, appraisal)}
		if before == appraisal.Outcome && reset == m.Appraised {
			return changes, nil // as before: nobody need read it on the timeline
		}
		return append(changes, v.momentOfBoot(m, appraisal)...), nil
	})
}

// appraise judges evidence against the machine's policy. Without a policy the
// boot is told in words and the outcome is incomplete.
func (v *Verifier) appraise(m *machine, evidence *attest.Evidence, nonce remote.Nonce) *remote.Appraisal {
	out := &remote.Appraisal{Machine: m.Name, Outcome: remote.OutcomeIncomplete}
	policy := v.policyOf(m.Name)
	if policy == nil {
		out.Error = "no attestation policy is configured for " + m.Name + ": what booted is told, not judged"
		if told, _ := attest.Explain(evidence); told != nil {
			out.Boot = told.Claims.Boot
		}
		return out
	}
	result, err := attest.Verify(evidence, policy, attest.VerifyOptions{Nonce: nonce[:], AK: m.AKPublic})
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Outcome, out.Policy, out.Boot = string(result.Outcome), result.Policy, result.Claims.Boot
	out.Result = json.RawMessage(encode(result))
	if proven(result) {
		m.noteReset(result.Claims.ResetCount)
	}
	return out
}

// proven says whether the claims are those of the enrolled TPM, now.
func proven(r *attest.Result) bool {
	good := 0
	for _, c := range r.Checks {
		if c.Outcome == attest.Pass && (c.Name == attest.CheckQuote || c.Name == attest.CheckNonce || c.Name == attest.CheckKey) {
			good++
		}
	}
	return good == 3
}

func (m *machine) noteReset(count uint32) {
	m.Appraised, m.HasReset = count, true
}

// restarted says that a quote shows another boot than the one appraised.
func (m *machine) restarted(count uint32) bool { return m.HasReset && m.Appraised != count }

func (v *Verifier) momentOfBoot(m *machine, a *remote.Appraisal) []store.Change {
	severity, text := remote.SeverityInfo, "the boot of "+m.Name+" matches its policy"
	switch {
	case a.Outcome == remote.OutcomeFail:
		severity, text = remote.SeverityAlert, "the boot of "+m.Name+" does not match its policy"
		if f := firstFinding(a.Result); f != "" {
			text += ": " + f
		}
	case a.Outcome == remote.OutcomeIncomplete:
		severity, text = remote.SeverityNotice, "the boot of "+m.Name+" could not be appraised completely"
		if a.Error != "" {
			text += ": " + a.Error
		}
	}
	return v.moment(remote.Moment{Machine: m.Name, Kind: "boot", Severity: severity, Text: text, Ref: a.ID, Time: a.At})
}

// firstFinding is the explanation of the first finding of an attest.Result or
// a measure.Report, which look the same that far.
func firstFinding(result json.RawMessage) string {
	var r struct {
		Checks []struct {
			Name     string `json:"name"`
			Findings []struct {
				Symbol      string `json:"symbol"`
				Explanation string `json:"explanation"`
			} `json:"findings"`
		} `json:"checks"`
	}
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	for _, c := range r.Checks {
		if len(c.Findings) == 0 {
			continue
		}
		f := c.Findings[0]
		if f.Symbol == "" {
			return c.Name + ": " + f.Explanation
		}
		return c.Name + ": " + f.Symbol + ": " + f.Explanation
	}
	return ""
}
