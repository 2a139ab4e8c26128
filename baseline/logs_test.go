package baseline

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// sentLogs are a baseline's logs as whoever captures gets them.
func sentLogs(t testing.TB, b *Baseline, rules *filewatch.Rules) (logs []Log) {
	t.Helper()
	all, full, err := b.Logs(rules, 1<<20)
	if err != nil || full {
		t.Fatalf("logs: full %v, %v", full, err)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(text, &logs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

// checkApart is check where now is captured without the baseline, as an agent does for
// the verifier.
func checkApart(t testing.TB, before, now *files, rules *filewatch.Rules) *Report {
	t.Helper()
	k := key(t)
	b := open(t, write(t, snapshot(t, before, &CaptureOptions{Rules: rules}), k), k)
	o := &CaptureOptions{Rules: rules}
	o.FollowLogs(sentLogs(t, b, rules))
	report, err := DiffUnder(rules, b, open(t, write(t, snapshot(t, now, o), k), k))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// What nobody looked for is not measured, and a capture is not believed what its own
// records deny.
func TestLogsNobodyLookedFor(t *testing.T) {
	asked := rules(t, logRules)
	before, k := logs(t), key(t)
	b := open(t, write(t, snapshot(t, before, &CaptureOptions{Rules: asked}), k), k)
	now := logs(t)
	now.put(14, "line 1\nlast\n", "/var/log/syslog")
	now.put(17, "", "/var/log/auth.log")
	for name, c := range map[string]struct {
		change func(logs []Log) []Log
		want   []string
	}{
		"all": {func(l []Log) []Log { return l }, []string{"changed /var/log/auth.log [growing] [content-changed-times-kept log-truncated]"}},
		"none": {func([]Log) []Log { return nil },
			[]string{"changed /var/log/auth.log [growing] [content-changed-times-kept log-truncated]", "not-measured /var/log/syslog [] []"}},
		"of another content": {func(l []Log) []Log {
			for i := range l {
				l[i].Size--
			}
			return l
		}, []string{"changed /var/log/auth.log [growing] [content-changed-times-kept log-truncated]", "not-measured /var/log/syslog [] []"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := &CaptureOptions{Rules: asked}
			o.FollowLogs(c.change(sentLogs(t, b, asked)))
			captured := open(t, write(t, snapshot(t, now, o), k), k)
			for range 2 {
				report, err := DiffUnder(asked, b, captured)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.want, brief(report)); d != "" {
					t.Error(d)
				}
				// However much it is said to be kept, it is shorter than it was.
				for i, l := range captured.Header.Logs {
					captured.Header.Logs[i].Kept = l.Kept || string(l.Path) == "/var/log/auth.log"
				}
			}
		})
	}
	// Rules of the capture that want no contents leave nothing to tell by.
	o := &CaptureOptions{Rules: rules(t, "[[rule]]\npath = \"**\"\nlevel = \"verify\"\ncheck = [\"mode\"]\n")}
	o.FollowLogs(sentLogs(t, b, asked))
	report, err := DiffUnder(asked, b, open(t, write(t, snapshot(t, now, o), k), k))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Changes {
		if c.Path == "/var/log/syslog" && c.Kind != Unmeasured {
			t.Errorf("%v", brief(report))
		}
	}
	if report.Outcome() == "pass" {
		t.Errorf("%v", brief(report))
	}
	// A baseline made of the capture says nothing of the one before.
	for most, want := range map[int]int{0: 0, 900: 2} {
		all, full, err := b.Logs(asked, most)
		if err != nil || !full || len(all) != want {
			t.Errorf("%d logs in %d bytes, full %v: %v", len(all), most, full, err)
		}
		if text, err := json.Marshal(all); err != nil || len(text) > most+4 {
			t.Errorf("%d bytes of JSON, want %d at most: %v", len(text), most, err)
		}
	}
}
