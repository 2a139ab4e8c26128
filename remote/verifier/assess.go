package verifier

import (
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// rebootGrace is how long a restart may take before silence counts as such.
const rebootGrace = 5 * time.Minute

// reason is one thing that speaks for a state.
type reason struct {
	state remote.State
	text  string
}

// assess derives a machine's state from what is known of it. host is the
// machine that measures it, nil if none does. It is pure.
//
// Evidence of something wrong outweighs everything; then a restart; then what
// was never seen; then what is too old. Only a machine for which every enabled
// duty has a fresh pass is trusted.
func (v *Verifier) assess(m, host *machine, now time.Time) (remote.State, []string) {
	var reasons []reason
	reasons = append(reasons, v.bootReasons(m, now)...)
	reasons = append(reasons, v.scanReasons(m, host, now)...)
	reasons = append(reasons, fileReasons(m, host, now)...)
	if host != nil && host.Retired != nil {
		reasons = append(reasons, reason{remote.StateStale, host.Name + ", which measures it, was retired"})
	}
	switch {
	case m.Off:
		reasons = append(reasons, reason{remote.StateStale, "the machine is powered off"})
	case !m.RebootingSince.IsZero() && now.Sub(m.RebootingSince) < rebootGrace:
		reasons = append(reasons, reason{remote.StateRebooting, "the machine is restarting"})
	}
	if !m.Boot.Enabled && !m.Scan.Enabled && !m.Files.Watched {
		reasons = append(reasons, reason{remote.StateUnknown, "nothing is checked yet"})
	}
	for _, state := range []remote.State{remote.StateUntrusted, remote.StateRebooting, remote.StateUnknown, remote.StateStale} {
		if texts := textsOf(reasons, state); len(texts) > 0 {
			return state, append(texts, acceptedWords(m)...)
		}
	}
	return remote.StateTrusted, append(textsOf(reasons, remote.StateTrusted), acceptedWords(m)...)
}

func textsOf(reasons []reason, state remote.State) []string {
	var out []string
	for _, r := range reasons {
		if r.state == state {
			out = append(out, r.text)
		}
	}
	return out
}

func (v *Verifier) bootReasons(m *machine, now time.Time) []reason {
	if !m.Boot.Enabled {
		return nil
	}
	switch m.Boot.Outcome {
	case remote.OutcomeFail:
		return []reason{{remote.StateUntrusted, "its boot does not match the policy"}}
	case remote.OutcomeIncomplete:
		return []reason{{remote.StateUnknown, "its boot could not be appraised completely"}}
	case "":
		return []reason{{remote.StateUnknown, "its boot has not been appraised yet"}}
	}
	every := v.config.host(m.Name).attestEvery()
	if age := now.Sub(m.Boot.LastSuccess); age > 2*every+time.Minute {
		return []reason{{remote.StateStale, "its boot was last attested at " + clock(m.Boot.LastSuccess)}}
	}
	return []reason{{remote.StateTrusted, "its boot matches the policy"}}
}

func (v *Verifier) scanReasons(m, host *machine, now time.Time) []reason {
	if !m.Scan.Enabled || host != nil && host.Retired != nil && m.Scan.Outcome == remote.OutcomePass {
		return nil // of a retired host assess says so
	}
	var out []reason
	switch m.Scan.Outcome {
	case remote.OutcomeFail:
		out = append(out, reason{remote.StateUntrusted, "its last scan found changes in the kernel"})
	case remote.OutcomeIncomplete:
		out = append(out, reason{remote.StateUnknown, "its last scan is incomplete"})
	case "":
		out = append(out, reason{remote.StateUnknown, "it has not been scanned yet"})
	}
	switch {
	case m.Scan.Outcome != remote.OutcomePass:
	case host != nil && host.isOther(m.Scanner):
		out = append(out, reason{remote.StateUnknown, "its last scan was by another machine than the one that measures it"})
	default:
		out = append(out, v.scanAge(m, now))
	}
	if host != nil {
		out = append(out, v.hostReasons(m, host)...)
	}
	return out
}

func (v *Verifier) scanAge(m *machine, now time.Time) reason {
	h := v.config.host(m.Name)
	age := now.Sub(m.Scan.LastSuccess)
	switch {
	case m.Scan.Error != "":
		return reason{remote.StateStale, "its last scan brought no report: " + m.Scan.Error}
	case age > h.scanEvery()+h.scanJitter()+2*h.scanTimeout():
		return reason{remote.StateStale, "it was last scanned at " + clock(m.Scan.LastSuccess)}
	}
	return reason{remote.StateTrusted, "its last scan passed every check"}
}

// hostReasons carries over what the boot of the measuring host says.
func (v *Verifier) hostReasons(m, host *machine) []reason {
	if host.Boot.Outcome == remote.OutcomeFail {
		return []reason{{remote.StateUntrusted, fmt.Sprintf("it is measured by %s, whose boot does not match its policy", host.Name)}}
	}
	if v.config.host(m.Name).MeasuringHost == "trusted" && host.State != remote.StateTrusted {
		return []reason{{remote.StateUnknown, fmt.Sprintf("it is measured by %s, which is %s", host.Name, host.State)}}
	}
	return nil
}

// watchSilence is how long nothing may be heard of an agent that watches files: it says
// twice a minute that it is there, and else silence would be a pass.
const watchSilence = 10 * time.Minute

func fileReasons(m, host *machine, now time.Time) []reason {
	var out []reason
	if m.Files.Violations > 0 {
		out = append(out, reason{remote.StateUntrusted, plural(m.Files.Violations, "file differs", "files differ") + " from the baseline"})
	}
	if n := m.Files.Unmeasured; n > 0 {
		out = append(out, reason{remote.StateUnknown, plural(n, "thing", "things") + " among its files could not be compared with the baseline when they were last read"})
	}
	if m.Unjudged {
		out = append(out, reason{remote.StateUnknown, "something was done to its files that could not be compared with the baseline, and no rescan has told yet"})
	}
	if !m.Rotated.IsZero() && (m.LogMoved || !m.Unjudged) {
		out = append(out, reason{remote.StateUnknown, "a log was moved aside or cut, and no rescan has told yet whether by its rotation"})
	}
	heard := m.LastSeen
	if host != nil && host.LastSeen.After(heard) {
		heard = host.LastSeen
	}
	if m.Files.Watched && now.Sub(heard) > watchSilence {
		out = append(out, reason{remote.StateStale, "its files were watched, and nothing was heard of whoever does since " + clock(heard)})
	}
	if m.Files.Watched && host != nil && host.isOther(m.Watcher) {
		out = append(out, reason{remote.StateStale, "its files were watched by another machine than the one that measures it"})
	}
	if !m.Lost.IsZero() {
		out = append(out, reason{remote.StateStale, "file events were lost and no rescan has made up for it"})
	}
	switch {
	case m.Files.Baseline == "" && m.Files.Watched:
		out = append(out, reason{remote.StateUnknown, "its files are watched, but there is no baseline to compare with"})
	case m.Files.Baseline != "" && !m.Files.Watched:
		out = append(out, reason{remote.StateStale, "its files have a baseline, but nothing watches them"})
	case m.Files.Watched && len(out) == 0:
		out = append(out, reason{remote.StateTrusted, "no watched file differs from the baseline"})
	}
	return out
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
