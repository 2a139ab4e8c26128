package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

const rulesOfLogs = `
[[rule]]
path = "/var/log/**"
type = "file"
level = "verify"
check = ["growing", "owner", "mode"]

[[rule]]
path = "**"
level = "verify"
check = ["content", "owner", "mode"]
`

// Logs that Debian's logrotate moved aside in each of its ways are no findings, however
// often they were and whether scans build on each other; that somebody altered what the
// baseline has of them is, with all that then cannot be told to have come after. The
// disk is what a kernel made of it (testdata/rotated/make.sh).
func TestRotatedLogs(t *testing.T) {
	rules, err := filewatch.ParseRules([]byte(rulesOfLogs))
	if err != nil {
		t.Fatal(err)
	}
	image, live := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "live")
	var base *baseline.Baseline
	var m *disktest.Machine
	var since, apart *Since // apart: as the agent, without the baseline
	var before []byte
	rounds := 0
	volumetest.Pictures(t, "testdata/rotated/logrotate.series.zst", func(round int, now []byte) {
		rounds++
		if err := os.WriteFile(image, now, 0o600); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			base, before = captureOf(t, image, rules), copied(t, image, live)
			m = disktest.Start(t, "raw:"+live)
			since = &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
			check(t, lookedAt(t, since, image))
			logs, full, err := base.Logs(rules, 1<<20)
			if err != nil || full {
				t.Fatalf("logs: full %v, %v", full, err)
			}
			apart = &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Logs: logs, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
			if told, how := writtenApart(t, apart, base); len(told.Changes) > 0 || !how.Full {
				t.Fatalf("%v, %+v", told.Changes, how)
			}
			return
		}
		m.Become(t, 0, before, now)
		before = now
		report, how := check(t, since)
		if how.Full || len(how.Whole) > 0 || how.NotKept != "" {
			t.Fatalf("round %d: %+v", round, how)
		}
		if d := cmp.Diff(fully(t, image, base, rules), told(t, report)); d != "" {
			t.Fatalf("round %d: full scan against incremental:\n%s", round, d)
		}
		there, how := writtenApart(t, apart, base)
		if how.Full || how.NotKept != "" {
			t.Fatalf("round %d, apart: %+v", round, how)
		}
		if d := cmp.Diff(told(t, report), told(t, there)); d != "" {
			t.Fatalf("round %d: with the baseline and apart from it:\n%s", round, d)
		}
		var want, got []string
		if round == 6 {
			want = []string{
				"changed /var/log/compress.log [growing]",
				"added /var/log/compress.log.2.gz []",
				"added /var/log/compress.log.3.gz []",
				"added /var/log/compress.log.4.gz []",
				"added /var/log/compress.log.5.gz []",
				"changed /var/log/copytruncate.log [growing]",
				"added /var/log/copytruncate.log.2 []",
				"added /var/log/copytruncate.log.3 []",
				"added /var/log/copytruncate.log.4 []",
				"added /var/log/copytruncate.log.5 []",
			} // copydelay.log was cut too, of what was written since the baseline
		}
		for _, c := range report.Changes {
			got = append(got, fmt.Sprintf("%s %s %v", c.Kind, c.Path, c.Attributes.Names()))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("round %d: %s", round, d)
		}
	})
	if rounds != 7 {
		t.Errorf("%d pictures, want 7", rounds)
	}
}

// writtenApart is what comparing comes to where one who has no baseline captures.
func writtenApart(t *testing.T, s *Since, base *baseline.Baseline) (*baseline.Report, *How) {
	t.Helper()
	key, err := sign.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, how, err := s.Write(t.Context(), &out, &baseline.Edition{Tool: "test", Lineage: "l", Version: 1}, key)
	if err != nil {
		t.Fatal(err)
	}
	captured, err := baseline.OpenBytes(out.Bytes(), &baseline.OpenOptions{AnySigner: true})
	if err != nil {
		t.Fatal(err)
	}
	report, err := baseline.DiffUnder(s.Rules, base, captured)
	if err != nil {
		t.Fatal(err)
	}
	return report, how
}
