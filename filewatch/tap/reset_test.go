package tap

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// twoMonitors gives a disk of a machine and its second monitor.
func twoMonitors(t *testing.T) (d *guestDisk, second string) {
	t.Helper()
	c := volumetest.NewChanges(t, "-t", "ext4")
	second = filepath.Join(shortDir(t), "second")
	live := filepath.Join(t.TempDir(), "live")
	volumetest.Tool(t, "cp", c.Image, live)
	d = &guestDisk{Changes: c, t: t, m: disktest.StartWith(t, []string{"-qmp", "unix:" + second + ",server=on,wait=off"}, "raw:"+live)}
	d.image = d.m.BecomeImage(t, 0, nil, d.Image)
	return d, second
}

// shortDir is a directory for sockets, whose paths must be short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "plumbline-tap-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A reset of the guest is told, and no loss.
func TestSourceTellsResets(t *testing.T) {
	d, second := twoMonitors(t)
	connected := filepath.Join(filepath.Dir(second), "later") // not there at first
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

// A reset while the disks cannot be looked at is no word that they are.
func TestResetDoesNotEndBlindness(t *testing.T) {
	d, second := twoMonitors(t)
	w := watch(t, d.m.QMP, func(s *Source) { s.Resets = second })
	socket := map[string]any{"type": "unix", "data": map[string]any{"path": filepath.Join(filepath.Dir(second), "nbd")}}
	together(func() {
		d.m.Execute(t, "nbd-server-start", map[string]any{"addr": socket}, nil) // of which QEMU has one
		d.run("rm /d3/f3")
	}, w)
	w.wait("that the disks are not looked at", func() bool { return len(w.alerts) == 2 })
	w.wait("an alert of a reset", func() bool {
		if len(w.alerts) == 2 { // it may not be connected yet
			d.m.Execute(t, "system_reset", nil, nil)
		}
		return len(w.alerts) > 2
	})
	d.m.Execute(t, "nbd-server-stop", nil, nil)
	w.wait("the event", func() bool { return len(w.events) == 1 })
	last := -1
	w.wait("the end", func() bool {
		last = slices.IndexFunc(w.alerts, func(a filewatch.Alert) bool { return a.Alert == filewatch.AlertWatch })
		return last >= 0
	})
	if a := w.alerts[last]; !strings.Contains(a.Reason, "looked at again") || w.alerts[1].Alert != filewatch.AlertBlind || w.alerts[2].Alert != filewatch.AlertRestart {
		t.Errorf("%+v", w.alerts)
	}
	w.stop()
	nothingLeft(t, d.m, w)
}

// That resets are not told is so while QEMU is there, however the monitor refuses; that it
// ended others tell.
func TestResetsAreMissedOnlyWhileQEMURuns(t *testing.T) {
	for name, answer := range map[string]string{"closed at once": "", "no monitor": "nonsense\n"} {
		dir := shortDir(t)
		s := &Source{QMP: filepath.Join(dir, "qmp"), Resets: filepath.Join(dir, "second")}
		alerts, asked := make(chan filewatch.Alert, 10), answering(t, s.Resets, answer)
		s.Alert = func(a filewatch.Alert) { alerts <- a }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			s.resets(ctx)
			close(done)
		}()
		for range 3 { // of which two are over
			<-asked
		}
		if len(alerts) > 0 {
			t.Errorf("%s, without QEMU: %+v", name, <-alerts)
		}
		go func() {
			for range asked {
			}
		}()
		answering(t, s.QMP, "")
		select {
		case a := <-alerts:
			if a.Alert != filewatch.AlertBlind || !strings.Contains(a.Reason, "resets of the guest are not told") {
				t.Errorf("%s: %+v", name, a)
			}
		case <-time.After(patience):
			t.Errorf("%s: it is not told", name)
		}
		cancel()
		<-done
	}
}

// answering gives all who connect to a socket an answer, and says that one did.
func answering(t *testing.T, socket, answer string) (asked chan struct{}) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return asked
}
