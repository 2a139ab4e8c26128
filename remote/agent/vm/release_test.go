package vm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// The snapshot is let go of as soon as what changed was read. Where the state turns
// out to be damaged after that, there is a new one for the scan of everything, and
// the scans after it are incremental again.
func TestSinceReadsEverythingAfterItsSnapshotWentAway(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	base := captureOf(t, c.Image, rules)
	live := filepath.Join(t.TempDir(), "live")
	before := copied(t, c.Image, live)
	m := disktest.Start(t, "raw:"+live)
	s := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	s.Look = func(state *baseline.State) error { // what nobody asks for is not found to be damaged
		for _, err := range state.Records {
			if err != nil {
				return err
			}
		}
		return nil
	}
	check(t, s)
	for round, damaged := range []bool{false, true, false, true, false} {
		if damaged {
			found, err := filepath.Glob(filepath.Join(s.Dir, "records-*"))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			b, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1 // not of what changes below, so that it is found at the end
			if err := os.WriteFile(found[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c.Debugfs(t, "set_inode_field /d0/f1 mode 010071"+string(rune('0'+round)))
		after, err := os.ReadFile(c.Image)
		if err != nil {
			t.Fatal(err)
		}
		m.Become(t, 0, before, after)
		before = after
		report, how := check(t, s)
		if how.Full != damaged || how.NotKept != "" {
			t.Errorf("round %d: %+v, want full %v", round, how, damaged)
		}
		if d := cmp.Diff(fully(t, c.Image, base, rules), told(t, report)); d != "" {
			t.Errorf("round %d: full scan against this one:\n%s", round, d)
		}
	}
	nothingLeft(t, m, s)
}
