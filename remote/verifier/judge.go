package verifier

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// maxRounds bounds how often the agent is asked for pages of one scan.
const maxRounds = 4

// takeScan checks that a scan's report is the answer to a nonce of ours, quoted
// by the enrolled TPM of the machine that measures, and has it judged. A report
// that is not believed changes nothing: the scan goes on waiting.
func (v *Verifier) takeScan(ctx context.Context, r store.Record, s *remote.Scan) error {
	agent, err := v.targetOf(ctx, r, s.Target)
	if err != nil {
		return err
	}
	if s.Error != "" {
		return v.takeUnmeasured(ctx, r, s)
	}
	quote, err := v.believe(s, &agent.V)
	if err != nil {
		return &badRecordError{fmt.Errorf("scan report of %s: %w", s.Target, err)}
	}
	// Before its bulk is kept: a nonce that is not ours costs an agent nothing.
	if _, err := v.useNonce(ctx, s.Nonce, s.Target, forScan, r.Received); err != nil {
		return err
	}
	body := remote.DigestOf(s.Observations)
	if err := v.store.PutBodies(ctx, map[remote.Digest][]byte{body: s.Observations}); err != nil {
		return err
	}
	restarted := agent.V.restarted(quote.ResetCount)
	err = v.useReport(ctx, r, s, func(e *scanEntry, m *machine) ([]store.Change, error) {
		e.State, e.ReportedAt, e.Body = remote.ScanWaiting, r.Received, body
		e.MeasuredBy, e.HostState, e.HostBoot = agent.V.Name, agent.V.State, hostBoot(&agent.V, restarted)
		e.Restart, e.Host = restarted, agent.V.tag()
		m.RebootingSince, m.Off = noTime, false
		return nil, nil
	})
	if err != nil {
		return err
	}
	if restarted {
		if err := v.hostRestarted(ctx, agent.Key); err != nil && !errors.Is(err, errRetired) {
			return err
		}
	}
	return v.judgeScan(ctx, s.Nonce.String()[:16])
}

// believe checks a report's quote: made by the enrolled key, over this nonce
// and these observations.
func (v *Verifier) believe(s *remote.Scan, agent *machine) (*attest.Quote, error) {
	if !agent.enrolled() || string(agent.AKPublic) != string(s.AKPublic) {
		return nil, errors.New("it is not quoted by the enrolled attestation key")
	}
	bound := measure.Bind(s.Nonce[:], s.Observations)
	quote, err := attest.VerifyQuote(agent.AKPublic, s.Quote, s.Signature, bound[:])
	if err != nil {
		return nil, err
	}
	obs, err := measure.DecodeObservations(s.Observations)
	if err != nil {
		return nil, err
	}
	if string(obs.Nonce) != string(s.Nonce[:]) {
		return nil, errors.New("its observations were made for another nonce")
	}
	return quote, nil
}

// hostBoot says in words what is known of the boot of the measuring host.
func hostBoot(host *machine, restarted bool) string {
	switch {
	case restarted:
		return host.Name + " has restarted since its boot was appraised; it is asked to attest again"
	case host.Boot.Outcome == remote.OutcomePass:
		return "the boot of " + host.Name + " matched its policy at " + clock(host.Boot.LastSuccess)
	case host.Boot.Outcome == remote.OutcomeFail:
		return "the boot of " + host.Name + " does not match its policy"
	case !host.Boot.Enabled:
		return "the boot of " + host.Name + " is not appraised: " + host.Boot.Missing
	}
	return "the boot of " + host.Name + " has not been appraised completely"
}

// hostRestarted asks a host whose quote shows another boot to attest.
func (v *Verifier) hostRestarted(ctx context.Context, name string) error {
	return v.changeMachine(ctx, name, nil, func(m *machine) ([]store.Change, error) {
		// What was appraised is the boot before: nothing is known of this one.
		m.RebootingSince, m.HasReset, m.Boot.Outcome = v.now(), false, ""
		changes := v.moment(remote.Moment{Machine: name, Kind: "boot", Severity: remote.SeverityNotice,
			Text: name + " restarted: its TPM's reset count changed, its boot is appraised again"})
		more, err := v.askAttestation(ctx, m, "its TPM's reset count changed")
		return append(changes, more...), err
	})
}

// takeUnmeasured ends a scan whose trigger arrived but whose target could not
// be measured.
func (v *Verifier) takeUnmeasured(ctx context.Context, r store.Record, s *remote.Scan) error {
	return v.useReport(ctx, r, s, func(e *scanEntry, m *machine) ([]store.Change, error) {
		e.State, e.ReportedAt, e.Error = remote.ScanFailed, r.Received, "nothing could be measured: "+s.Error
		m.Scan.Error = e.Error
		v.metrics.scans.WithLabelValues(string(e.State)).Inc()
		return v.moment(remote.Moment{Machine: m.Name, Kind: "scan", Severity: remote.SeverityWarning, Time: r.Received,
			Text: fmt.Sprintf("a scan of %s could not measure anything: %s", m.Name, s.Error), Ref: e.ID}), nil
	})
}

// useReport uses up the nonce of a report and changes the scan that it answers.
func (v *Verifier) useReport(ctx context.Context, r store.Record, s *remote.Scan, decide func(*scanEntry, *machine) ([]store.Change, error)) error {
	return v.changeBy(ctx, r, s.Target, []int64{r.ID}, func(m *machine) ([]store.Change, error) {
		used, err := v.useNonce(ctx, s.Nonce, m.Name, forScan, r.Received)
		if err != nil {
			return nil, err
		}
		e, err := load[scanEntry](ctx, v.store, inScans, s.Nonce.String()[:16])
		if err != nil {
			return nil, err
		}
		if e.V.Done() {
			return nil, &badRecordError{fmt.Errorf("the scan %s is over: %s", e.V.ID, e.V.State)}
		}
		changes, err := decide(&e.V, m)
		return append(changes, used, e.change()), err
	})
}

// judgeWaiting judges the scans whose pages have all arrived.
func (v *Verifier) judgeWaiting(ctx context.Context) error {
	waiting, err := v.openScans(ctx, remote.ScanWaiting)
	if err != nil {
		return err
	}
	for _, s := range waiting {
		missing, err := v.store.Missing(ctx, s.V.Need)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			continue
		}
		if err := v.judgeScan(ctx, s.Key); err != nil {
			return err
		}
	}
	return nil
}

// judgeScan computes a scan's verdict, or asks for the pages it takes.
func (v *Verifier) judgeScan(ctx context.Context, id string) error {
	s, err := load[scanEntry](ctx, v.store, inScans, id)
	if err != nil || s.V.State != remote.ScanWaiting {
		return err
	}
	encoded, err := v.store.Body(ctx, s.V.Body)
	if err != nil {
		return err
	}
	obs, err := measure.DecodeObservations(encoded)
	if err != nil {
		return err
	}
	accepted := v.refs.acceptedPages(ctx, v.store, v.now())
	var report *measure.Report
	err = v.guard(func() (err error) {
		report, err = v.judge(obs, v.refs.of(s.V.Machine, storedPages{ctx, v.store}, accepted))
		return err
	})
	var missing *check.MissingPagesError
	switch {
	case errors.As(err, &missing):
		return v.askPages(ctx, id, missing.Digests)
	case err != nil:
		v.closeScan(ctx, id, remote.ScanFailed, "it cannot be judged: "+err.Error())
		return nil
	}
	if err := v.storeVerdict(ctx, id, report); errors.Is(err, errRetired) {
		return nil // meanwhile, and the scan was ended with it
	} else if err != nil {
		return err
	}
	return accepted.save(ctx)
}

// askPages asks the measuring agent for pages that were never judged.
func (v *Verifier) askPages(ctx context.Context, id string, digests []check.Digest) error {
	return again(func() error {
		s, err := load[scanEntry](ctx, v.store, inScans, id)
		if err != nil || s.V.State != remote.ScanWaiting {
			return err
		}
		if s.V.Asked++; s.V.Asked > maxRounds || len(digests) > remote.MaxNeed {
			v.closeScan(ctx, id, remote.ScanFailed, fmt.Sprintf("%d pages are needed to judge it and did not come", len(digests)))
			return nil
		}
		need := make([]remote.Digest, len(digests))
		for i, d := range digests {
			need[i] = remote.Digest(d)
		}
		command, err := v.command(ctx, s.V.MeasuredBy, remote.Command{Kind: remote.CommandBodies, Target: s.V.Machine,
			Digests: need, Reason: "pages to judge scan " + id})
		if err != nil {
			return err
		}
		s.V.Need, s.V.Command = need, commandID(command)
		held, err := v.holdPages(ctx, s.Key, s.V.Machine, need)
		if err != nil {
			return err
		}
		return v.apply(ctx, nil, append(command, s.change(), held)...)
	})
}

// storeVerdict keeps a report and what follows from it for the machine.
func (v *Verifier) storeVerdict(ctx context.Context, id string, report *measure.Report) error {
	return again(func() error {
		s, err := load[scanEntry](ctx, v.store, inScans, id)
		if err != nil || s.V.Done() {
			return err
		}
		s.V.State, s.V.JudgedAt, s.V.Need = remote.ScanJudged, v.now(), nil
		s.V.Outcome, s.V.Report = string(report.Outcome), encode(report)
		return v.changeMachine(ctx, s.V.Machine, nil, func(m *machine) ([]store.Change, error) {
			if s.V.FiredAt.Before(m.Verdict) {
				return []store.Change{s.change()}, nil // a newer scan was judged first
			}
			m.Verdict, m.Scanner = s.V.FiredAt, s.V.Host
			asBefore := m.Scan.Outcome == remote.OutcomePass && s.V.Outcome == remote.OutcomePass && s.V.Cause == scheduled
			m.Scan.ID, m.Scan.Outcome, m.Scan.LastSuccess, m.Scan.Error = id, s.V.Outcome, s.V.ReportedAt, ""
			m.LastSeen = s.V.ReportedAt
			v.metrics.scans.WithLabelValues(s.V.Outcome).Inc()
			if asBefore {
				return []store.Change{s.change()}, nil
			}
			return append([]store.Change{s.change()}, v.momentOfScan(m, &s.V.ScanEntry, report)...), nil
		})
	})
}

func (v *Verifier) momentOfScan(m *machine, s *remote.ScanEntry, report *measure.Report) []store.Change {
	severity, text := remote.SeverityInfo, fmt.Sprintf("a scan of %s passed all %d checks", m.Name, len(report.Checks))
	switch report.Outcome {
	case measure.Fail:
		severity = remote.SeverityAlert
		text = fmt.Sprintf("a scan of %s failed: %s", m.Name, firstFinding(s.Report))
	case measure.Incomplete:
		severity = remote.SeverityNotice
		var names []string
		for _, c := range report.Unmeasured() {
			names = append(names, c.Name)
		}
		text = fmt.Sprintf("a scan of %s is incomplete, not measured: %s", m.Name, strings.Join(names, ", "))
	}
	return v.moment(remote.Moment{Machine: m.Name, Kind: "scan", Severity: severity, Text: text, Ref: s.ID})
}

// abandonScan ends the scan that waits for the pages of a failed command.
func (v *Verifier) abandonScan(ctx context.Context, command uint64, why string) ([]store.Change, error) {
	if command == 0 {
		return nil, nil
	}
	waiting, err := v.openScans(ctx, remote.ScanWaiting)
	if err != nil {
		return nil, err
	}
	for _, s := range waiting {
		if s.V.Command == command {
			s.V.State, s.V.Error = remote.ScanFailed, "the agent no longer has the pages to judge it: "+why
			return []store.Change{s.change()}, nil
		}
	}
	return nil, nil
}
