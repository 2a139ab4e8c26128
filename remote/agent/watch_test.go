package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// patience bounds every wait; nothing is measured by it.
const patience = 5 * time.Minute

// guestDisk is a disk of a running QEMU that changes as debugfs changes an image.
type guestDisk struct {
	*volumetest.Changes
	t     *testing.T
	m     *disktest.Machine
	image []byte
}

func newGuestDisk(t *testing.T) *guestDisk {
	t.Helper()
	d := &guestDisk{Changes: volumetest.NewChanges(t, "-t", "ext4"), t: t}
	live := filepath.Join(t.TempDir(), "live")
	volumetest.Tool(t, "cp", d.Image, live)
	d.m = disktest.Start(t, "raw:"+live)
	d.image = d.m.BecomeImage(t, 0, nil, d.Image)
	return d
}

// run is as in the tests of filewatch/tap.
func (d *guestDisk) run(commands ...string) {
	d.t.Helper()
	d.Debugfs(d.t, commands...)
	d.image = d.m.BecomeImage(d.t, 0, d.image, d.Image)
}

// bitmaps are the names of QEMU's dirty bitmaps.
func (d *guestDisk) bitmaps() (names []string) {
	d.t.Helper()
	var nodes []struct {
		Bitmaps []struct {
			Name string `json:"name"`
		} `json:"dirty-bitmaps"`
	}
	d.m.Execute(d.t, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			names = append(names, b.Name)
		}
	}
	return names
}

// watching is an agent that watches one target and delivers to nobody.
type watching struct {
	*target
	t    *testing.T
	stop func()
	log  *bytes.Buffer // to be read once it has stopped
}

func watchTarget(t *testing.T, config TargetConfig) *watching {
	t.Helper()
	w := &watching{t: t, log: &bytes.Buffer{}}
	a := &Agent{config: &Config{State: t.TempDir()}, log: slog.New(slog.NewTextHandler(w.log, nil)), version: "test",
		outbox: newOutbox(t, filepath.Join(t.TempDir(), "spool"))}
	w.target = &target{agent: a, config: config}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.watch(ctx)
	}()
	w.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(w.stop)
	return w
}

// spooled gives what is in the spool, in order.
func (w *watching) spooled() (events []remote.Event, status []remote.Status) {
	w.t.Helper()
	for from := uint64(1); ; {
		entries, err := w.agent.outbox.spool.Read(from, 100, 1<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range entries {
			from = e.Seq + 1
			var s spooled
			err := json.Unmarshal(e.Payload, &s)
			switch {
			case err == nil && s.Kind == remote.KindEvent:
				var e remote.Event
				err = json.Unmarshal(s.Body, &e)
				events = append(events, e)
			case err == nil && s.Kind == remote.KindStatus:
				var st remote.Status
				err = json.Unmarshal(s.Body, &st)
				status = append(status, st)
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}
		if len(entries) == 0 {
			return events, status
		}
	}
}

// told waits for a status that is as wanted.
func (w *watching) told(is func(remote.Status) bool) remote.Status {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_, status := w.spooled()
		for _, s := range status {
			if is(s) {
				return s
			}
		}
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain; there is %+v", status)
		}
	}
}

// event waits for the event of a number.
func (w *watching) event(number int) (remote.Event, *filewatch.Event) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		events, status := w.spooled()
		if len(events) >= number {
			sent := events[number-1]
			e := new(filewatch.Event)
			if err := json.Unmarshal(sent.Event, e); err != nil {
				w.t.Fatal(err)
			}
			if int(sent.Sequence) != number || sent.Stream != events[0].Stream {
				w.t.Fatalf("event %d has number %d in stream %s", number, sent.Sequence, sent.Stream)
			}
			return sent, e
		}
		if time.Now().After(end) {
			w.t.Fatalf("event %d does not come; there are %d, %+v", number, len(events), status)
		}
	}
}

// An agent watches a machine without the plugin by its disks, with captures that build on
// each other beside it, and leaves nothing of the watch in QEMU.
func TestAgentWatchesDisks(t *testing.T) {
	d := newGuestDisk(t)
	config := TargetConfig{Name: "web", QMP: d.m.QMP, Watch: WatchConfig{Enabled: true, Source: WatchDisk, Every: "10ms"},
		Files: FilesConfig{FullEvery: 9, Resume: true}}
	w := watchTarget(t, config)
	if s := w.told(func(s remote.Status) bool { return s.State == remote.WatchStarted }); s.Source != "disk" || s.Detail == "" {
		t.Errorf("the watch began as %+v", s)
	}
	path := filepath.Join(t.TempDir(), "manifest")
	capture := func() baseline.Header {
		t.Helper()
		if _, err := w.capture(t.Context(), path, nil); err != nil {
			t.Fatal(err)
		}
		return manifest(t, path)
	}
	capture()
	// A look that begins in the midst of what debugfs did would see half of it.
	change := func(command string) {
		t.Helper()
		w.monitor.Lock()
		defer w.monitor.Unlock()
		d.run(command)
	}

	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, []byte("new content"), 0o600); err != nil {
		t.Fatal(err)
	}
	change("write " + content + " /d0/new")
	sent, e := w.event(1)
	if e.Op != filewatch.OpCreate || e.Path != "/d0/new" || e.Source != "tap" || e.Actor.Unknown == "" || e.Since.IsZero() || sent.Absent != "" {
		t.Errorf("event %+v, absent %q, with an object of %d bytes", e, sent.Absent, len(sent.Object))
	}
	var seen baseline.Record
	if err := json.Unmarshal(sent.Object, &seen); err != nil {
		t.Fatal(err)
	}
	if seen.BLAKE3 != baseline.Digest(remote.DigestOf([]byte("new content"))) || seen.Path() != "/d0/new" {
		t.Errorf("it is judged by %+v", seen)
	}

	after := capture()
	change("rm /d3/f3")
	if sent, e := w.event(2); e.Op != filewatch.OpUnlink || e.Path != "/d3/f3" || sent.Absent != remote.AbsentGone || len(sent.Object) > 0 {
		t.Errorf("event %+v, absent %q, with an object of %d bytes", e, sent.Absent, len(sent.Object))
	}
	if gone := capture(); gone.Objects != after.Objects-1 {
		t.Errorf("%d objects after one of %d was removed", gone.Objects, after.Objects)
	}
	w.stop()
	events, status := w.spooled()
	for _, s := range status {
		if s.State != remote.WatchStarted && !strings.Contains(s.Detail, "the disk path does not show who did it") {
			t.Errorf("told: %+v", s)
		}
	}
	if len(events) != 2 {
		t.Errorf("%d events", len(events))
	}
	if text := w.log.String(); strings.Count(text, "full=true") != 1 || strings.Count(text, "full=false") != 2 {
		t.Errorf("captures beside the watch:\n%s", text)
	}
	if left := d.bitmaps(); len(left) != 1 {
		t.Errorf("bitmaps besides that of the captures: %q", left)
	}
	for _, command := range []string{"query-jobs", "query-block-exports"} {
		var got any
		d.m.Execute(t, command, nil, &got)
		if strings.Contains(fmt.Sprint(got), "plumbline") {
			t.Errorf("%s: %v", command, got)
		}
	}
	if files, err := os.ReadDir(filepath.Join(w.agent.config.State, "watch")); err != nil || len(files) > 0 {
		t.Errorf("left in its directory: %v, %v", files, err)
	}
}

// With source auto a machine without the plugin is watched by its disks, and the end of
// its QEMU is a loss that is told with its number.
func TestAgentTellsOfQEMUsEnd(t *testing.T) {
	d := newGuestDisk(t)
	w := watchTarget(t, TargetConfig{Name: "web", QMP: d.m.QMP, Watch: WatchConfig{Enabled: true, Source: WatchAuto, Every: "10ms"}})
	if s := w.told(func(s remote.Status) bool { return s.State == remote.WatchStarted }); s.Source != "disk" {
		t.Errorf("the watch began as %+v", s)
	}
	d.m.Kill()
	if s := w.told(func(s remote.Status) bool { return s.State == remote.TargetRebooting }); s.First != 1 || s.Lost != 1 {
		t.Errorf("the end of QEMU: %+v", s)
	}
}

// Without a word about it the plugin is what watches, and where it is not there the watch
// ends and says what else there is.
func TestAgentWatchesByThePluginUnlessTold(t *testing.T) {
	d := newGuestDisk(t)
	w := watchTarget(t, TargetConfig{Name: "web", QMP: d.m.QMP, Watch: WatchConfig{Enabled: true}})
	if s := w.told(func(s remote.Status) bool { return s.State == remote.WatchInterrupted }); !strings.Contains(s.Detail, `source = "disk"`) {
		t.Errorf("told: %+v", s)
	}
	if left := d.bitmaps(); len(left) > 0 {
		t.Errorf("bitmaps %q", left)
	}
}

// An object with more names and attributes than are sent is not measured; its event and
// those beside it are not lost.
func TestAgentBoundsWhatGoesWithAnEvent(t *testing.T) {
	s := &stream{target: &target{config: TargetConfig{Name: "web"}}, name: "s", events: make(chan remote.Event, 1)}
	for size, want := range map[int]filewatch.Judgement{100: filewatch.NotJudged, maxSeen: filewatch.NotMeasured} {
		r := &baseline.Record{Object: filewatch.Object{Inode: 12, Type: filewatch.TypeFile}, Names: []string{strings.Repeat("n", size)}}
		if err := s.sendSeen(&filewatch.Event{Op: filewatch.OpWrite, Path: "/a", Object: &r.Object}, vm.Sight{Object: r}); err != nil {
			t.Fatal(err)
		}
		sent, e := <-s.events, new(filewatch.Event)
		if err := json.Unmarshal(sent.Event, e); err != nil {
			t.Fatal(err)
		}
		if e.Verdict.Outcome != want || (len(sent.Object) > 0) != (want == filewatch.NotJudged) || sent.Absent != "" {
			t.Errorf("%d bytes of names: verdict %+v, an object of %d bytes, absent %q", size, e.Verdict, len(sent.Object), sent.Absent)
		}
	}
}

// A spool that gives up file events to leave room for scans has it told as a loss: the
// first at once, the others with what is heard next of the watch. Nothing may follow them
// whose number would show it.
func TestEventsThatTheSpoolDoesNotTakeAreTold(t *testing.T) {
	w := &watching{t: t}
	spool, err := durable.OpenSpool(t.TempDir(), durable.SpoolOptions{MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	log := slog.New(slog.DiscardHandler)
	w.target = &target{agent: &Agent{log: log, outbox: &outbox{spool: spool, bodies: newBodyCache(), log: log}}, config: TargetConfig{Name: "vm1"}}
	events, ended := make(chan remote.Event), make(chan error, 1)
	go func() { ended <- w.spoolEvents(events) }()
	last := uint64(0)
	next := func() {
		last++
		events <- remote.Event{Target: "vm1", Stream: "s", Sequence: last, Event: json.RawMessage(`"` + strings.Repeat("a", 1000) + `"`)}
	}
	for w.agent.outbox.takesEvents() {
		next()
	}
	next()
	w.told(func(s remote.Status) bool { return s.State == remote.WatchNotice && s.Lost > 0 })
	for range 100 {
		next()
	}
	close(events)
	if err := <-ended; !errors.Is(err, durable.ErrFull) {
		t.Errorf("the watch ends with %v", err)
	}
	kept, status := w.spooled()
	expected := uint64(len(kept)) + 1
	if len(status) < 2 || len(status) > 10 {
		t.Fatalf("told %d times: %+v", len(status), status)
	}
	for _, s := range status {
		if s.State != remote.WatchNotice || s.Target != "vm1" || s.First != expected {
			t.Errorf("told %+v, want numbers from %d on", s, expected)
		}
		expected = s.First + s.Lost
	}
	if expected != last+1 {
		t.Errorf("told of numbers up to %d, there were %d", expected-1, last)
	}
}
