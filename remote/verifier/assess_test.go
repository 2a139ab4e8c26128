package verifier

import (
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

func TestAssess(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	config := &Config{Hosts: []Host{
		{Name: "m", Reference: Reference{ScanEvery: Duration(time.Hour), AttestEvery: Duration(time.Hour)}},
		{Name: "strict", Reference: Reference{MeasuringHost: "trusted", ScanEvery: Duration(time.Hour)}},
	}}
	v := &Verifier{config: config}
	good := func() *machine {
		m := &machine{Machine: remote.Machine{Name: "m", LastSeen: now.Add(-watchSilence)}}
		m.Boot = remote.Activity{Enabled: true, Outcome: "pass", LastSuccess: now.Add(-time.Minute)}
		m.Scan = remote.Activity{Enabled: true, Outcome: "pass", LastSuccess: now.Add(-time.Minute)}
		m.Files = remote.Files{Watched: true, Baseline: "d"}
		return m
	}
	for _, test := range []struct {
		name   string
		change func(m, host *machine)
		want   remote.State
	}{
		{"everything passes", func(m, host *machine) {}, remote.StateTrusted},
		{"nothing is configured", func(m, host *machine) { *m = machine{Machine: remote.Machine{Name: "m"}} }, remote.StateUnknown},
		{"boot fails", func(m, host *machine) { m.Boot.Outcome = "fail" }, remote.StateUntrusted},
		{"boot incomplete", func(m, host *machine) { m.Boot.Outcome = "incomplete" }, remote.StateUnknown},
		{"boot never appraised", func(m, host *machine) { m.Boot.Outcome = "" }, remote.StateUnknown},
		{"boot appraised long ago", func(m, host *machine) { m.Boot.LastSuccess = now.Add(-3 * time.Hour) }, remote.StateStale},
		{"scan fails", func(m, host *machine) { m.Scan.Outcome = "fail" }, remote.StateUntrusted},
		{"scan incomplete", func(m, host *machine) { m.Scan.Outcome = "incomplete" }, remote.StateUnknown},
		{"never scanned", func(m, host *machine) { m.Scan.Outcome = "" }, remote.StateUnknown},
		{"no report", func(m, host *machine) { m.Scan.Error = "no report" }, remote.StateStale},
		{"no report after a failure", func(m, host *machine) { m.Scan.Error, m.Scan.Outcome = "no report", "fail" }, remote.StateUntrusted},
		{"scanned long ago", func(m, host *machine) { m.Scan.LastSuccess = now.Add(-3 * time.Hour) }, remote.StateStale},
		{"a file differs", func(m, host *machine) { m.Files.Violations = 1 }, remote.StateUntrusted},
		{"events were lost", func(m, host *machine) { m.Lost = now }, remote.StateStale},
		{"a gap was accepted", func(m, host *machine) { m.Files.Accepted = []remote.AcceptedGap{{What: "partition 2", By: "anna"}} }, remote.StateTrusted},
		{"another one was not", func(m, host *machine) {
			m.Files.Accepted, m.Files.Unmeasured = []remote.AcceptedGap{{What: "partition 2", By: "anna"}}, 1
		}, remote.StateUnknown},
		{"watch ended", func(m, host *machine) { m.Files.Watched = false }, remote.StateStale},
		{"its watch is silent", func(m, host *machine) { m.LastSeen = now.Add(-watchSilence - time.Second) }, remote.StateStale},
		{"its watch was heard of by itself", func(m, host *machine) { m.LastSeen, host.LastSeen = time.Time{}, now.Add(-time.Minute) }, remote.StateTrusted},
		{"no baseline", func(m, host *machine) { m.Files.Baseline = "" }, remote.StateUnknown},
		{"restarting", func(m, host *machine) { m.RebootingSince = now.Add(-time.Minute) }, remote.StateRebooting},
		{"restarting and failed", func(m, host *machine) { m.RebootingSince, m.Boot.Outcome = now.Add(-time.Minute), "fail" }, remote.StateUntrusted},
		{"restarting for too long", func(m, host *machine) { m.RebootingSince = now.Add(-time.Hour) }, remote.StateTrusted},
		{"powered off", func(m, host *machine) { m.Off = true }, remote.StateStale},
		{"measured by a host that failed", func(m, host *machine) { host.Boot.Outcome = "fail" }, remote.StateUntrusted},
		{"measured by a host not appraised", func(m, host *machine) { host.State = remote.StateUnknown }, remote.StateTrusted},
		{"last scanned by a host that was retired and replaced", func(m, host *machine) { m.Scanner, host.Prior = "h", "h~1" }, remote.StateUnknown},
		{"the same, noted by an earlier version", func(m, host *machine) { m.Files.Watched, m.Files.Baseline, host.Prior = false, "", "h~1" }, remote.StateUnknown},
		{"last scanned by another host", func(m, host *machine) { m.Scanner = "h2" }, remote.StateUnknown},
		{"scanned and watched by the replacement", func(m, host *machine) { m.Scanner, m.Watcher, host.Prior = "h~1", "h~1", "h~1" }, remote.StateTrusted},
		{"watched by a host that was replaced", func(m, host *machine) { m.Scanner, host.Prior = "h~1", "h~1" }, remote.StateStale},
		{"measured by a retired host", func(m, host *machine) { host.Retired, host.Prior = &remote.Retirement{}, "h~1" }, remote.StateStale},
		{"failed, and measured by a retired host", func(m, host *machine) { host.Retired, m.Scan.Outcome = &remote.Retirement{}, "fail" }, remote.StateUntrusted},
		{"the same where that is asked for", func(m, host *machine) { m.Name, host.State = "strict", remote.StateUnknown }, remote.StateUnknown},
	} {
		m, host := good(), &machine{Machine: remote.Machine{Name: "h", State: remote.StateTrusted}}
		test.change(m, host)
		state, reasons := v.assess(m, host, now)
		if state != test.want {
			t.Errorf("%s: %s %q, want %s", test.name, state, reasons, test.want)
		}
		if len(reasons) == 0 {
			t.Errorf("%s: %s without a reason", test.name, state)
		}
		if n := len(m.Files.Accepted); n > 0 && (len(reasons) < 2 || !strings.Contains(reasons[len(reasons)-1], "as anna accepted")) {
			t.Errorf("%s: %q does not say what was accepted", test.name, reasons)
		}
	}
}
