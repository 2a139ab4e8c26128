package tap

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A reset of the guest is told, and no loss.
func TestSourceTellsResets(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	dir, err := os.MkdirTemp("", "plumbline-tap-*") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	live, second := filepath.Join(t.TempDir(), "live"), filepath.Join(dir, "second")
	volumetest.Tool(t, "cp", c.Image, live)
	d := &guestDisk{Changes: c, t: t, m: disktest.StartWith(t, []string{"-qmp", "unix:" + second + ",server=on,wait=off"}, "raw:"+live)}
	d.image = d.m.BecomeImage(t, 0, nil, d.Image)
	connected := filepath.Join(dir, "later") // not there at first
	w := watch(t, d.m.QMP, func(s *Source) { s.Resets = connected })
	w.wait("that resets are not told", func() bool { return len(w.alerts) == 2 })
	if a := w.alerts[1]; a.Alert != filewatch.AlertBlind || !strings.Contains(a.Reason, "resets of the guest are not told") {
		t.Errorf("%+v", a)
	}
	if err := os.Symlink(second, connected); err != nil {
		t.Fatal(err)
	}
	w.wait("two alerts of a reset", func() bool {
		if len(w.alerts) == 2 {
			// It is connected some time after the socket is there.
			d.m.Execute(t, "system_reset", nil, nil)
		}
		return len(w.alerts) >= 4
	})
	if a, b := w.alerts[2], w.alerts[3]; a.Alert != filewatch.AlertRestart || a.Lost != 0 || !strings.Contains(a.Reason, "host-qmp-system-reset") || b.Alert != filewatch.AlertWatch {
		t.Errorf("%+v, %+v", a, b)
	}
	if got := w.step(func() { d.run("rm /d3/f3") }); !slices.Equal(got, []string{"unlink /d3/f3"}) {
		t.Errorf("events %q", got)
	}
	sequence(t, w)
	w.stop()
	nothingLeft(t, d.m, w)
}
