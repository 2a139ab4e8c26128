package tap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
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

func newGuestDisk(t *testing.T, format string) *guestDisk {
	t.Helper()
	c := volumetest.NewChanges(t, "-t", "ext4")
	live := filepath.Join(t.TempDir(), "live")
	volumetest.Tool(t, "qemu-img", "convert", "-q", "-f", "raw", "-O", format, c.Image, live)
	d := &guestDisk{Changes: c, t: t, m: disktest.Start(t, format+":"+live)}
	d.image = d.m.BecomeImage(t, 0, nil, c.Image)
	return d
}

// run runs commands of debugfs and gives the machine's disk what they made.
func (d *guestDisk) run(commands ...string) {
	d.t.Helper()
	d.Debugfs(d.t, commands...)
	d.image = d.m.BecomeImage(d.t, 0, d.image, d.Image)
}

// local is a file with a content, for debugfs to write.
func (d *guestDisk) local(content string) string {
	path := filepath.Join(d.t.TempDir(), "content")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// watched collects what a source tells.
type watched struct {
	*Source
	t     *testing.T
	turns *turns
	stop  func() error

	mu     sync.Mutex
	ended  int // looks
	events []*filewatch.Event
	alerts []filewatch.Alert
}

func watch(t *testing.T, socket string, change ...func(*Source)) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	bound, done := make(chan struct{}, 1), make(chan error, 1)
	w := &watched{t: t, turns: &turns{}}
	w.Source = &Source{Target: "vm", QMP: socket, Root: t.TempDir(), Every: 10 * time.Millisecond, Monitor: w.turns, Bound: func() { bound <- struct{}{} },
		Alert: func(a filewatch.Alert) { w.add(func() { w.alerts = append(w.alerts, a) }) }}
	w.looked = func() { w.add(func() { w.ended++ }) }
	for _, f := range change {
		f(w.Source)
	}
	go func() {
		done <- w.Events(ctx, func(e *filewatch.Event) error {
			w.add(func() { w.events = append(w.events, e) })
			return nil
		})
	}()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { w.stop() })
	select {
	case <-bound:
	case err := <-done:
		done <- err
		t.Fatalf("watch ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the first look is not done in time")
	}
	return w
}

func (w *watched) add(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// wait returns once have says so.
func (w *watched) wait(what string, have func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		ok := have()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s does not come; there is %q, alerts %+v", what, w.words(0), w.alerts)
		}
	}
}

// words are the events from one on, in words.
func (w *watched) words(from int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, e := range w.events[from:] {
		o := Operation{Op: e.Op, Path: e.Path, NewPath: e.NewPath, Detail: e.Detail}
		out = append(out, words([]Operation{o})...)
	}
	return out
}

// turns has tests change a disk while no look begins or ends.
type turns struct{ sync.Mutex }

// together makes changes in one turn of several: no look falls between them.
func together(change func(), watches ...*watched) {
	for _, w := range watches {
		w.turns.Mutex.Lock()
		defer w.turns.Mutex.Unlock()
	}
	change()
}

// step makes changes in one turn and gives the events of the look that sees them.
func (w *watched) step(change func()) []string {
	w.t.Helper()
	w.mu.Lock()
	from := len(w.events)
	w.mu.Unlock()
	before := 0
	together(func() {
		change()
		w.add(func() { before = w.ended })
	}, w)
	// One look may have begun before the change; the next one has not.
	w.wait("the end of a look", func() bool { return w.ended >= before+2 })
	return w.words(from)
}

func TestSourceTellsOperations(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			d := newGuestDisk(t, format)
			w := watch(t, d.m.QMP)
			for _, c := range []struct {
				commands, want []string
			}{
				{[]string{"write " + d.local("new content") + " /d0/new"}, []string{"create /d0/new"}},
				{[]string{"mkdir /made"}, []string{"mkdir /made"}},
				{[]string{"symlink /link target"}, []string{"symlink /link"}},
				{[]string{"ln /d0/new /d0/newer", "unlink /d0/new"}, []string{"rename /d0/new -> /d0/newer"}},
				{[]string{"ln /d0/newer /d1/again", "set_inode_field /d0/newer links_count 2"}, []string{"link /d0/newer -> /d1/again"}},
				{[]string{"unlink /d0/newer", "set_inode_field /d1/again links_count 1"}, []string{"unlink /d0/newer"}},
				{[]string{"set_inode_field /d1/again mode 0104755"}, []string{"chmod /d1/again"}},
				{[]string{"set_inode_field /d1/again uid 7"}, []string{"chown /d1/again"}},
				{[]string{"ea_set /d1/again user.x y"}, []string{"setxattr /d1/again: user.x"}},
				{[]string{"ea_set /d1/again security.x y"}, []string{"setacl /d1/again: security.x"}},
				{[]string{"set_inode_field /d1/again flags 0x80010"}, []string{"setflags /d1/again"}},
				{[]string{"set_inode_field /d1/again ctime @1234567890"}, []string{"utimes /d1/again: only its time of change differs: what was done to it was undone"}},
				{[]string{"rm /d1/again"}, []string{"unlink /d1/again"}},
				{[]string{"ln /d2 /moved", "unlink /d2"}, []string{"rename /d2 -> /moved: 40 objects below it moved along"}},
			} {
				if got := w.step(func() { d.run(c.commands...) }); !slices.Equal(got, c.want) {
					t.Errorf("%q: %q, want %q", c.commands, got, c.want)
				}
			}
			if err := w.stop(); err != context.Canceled {
				t.Errorf("ended with %v", err)
			}
			sequence(t, w)
			nothingLeft(t, d.m, w)
		})
	}
}

// sequence holds that each number is an event's, or in an alert's gap.
func sequence(t *testing.T, w *watched) {
	t.Helper()
	lost := map[uint64]bool{}
	for _, a := range w.alerts {
		for n := range a.Lost {
			lost[a.First+n] = true
		}
	}
	next := uint64(1)
	for _, e := range w.events {
		for ; lost[next]; next++ {
		}
		if e.Sequence != next {
			t.Fatalf("event %d has number %d", next, e.Sequence)
		}
		if e.Since.IsZero() || e.Time.Before(e.Since) || e.Actor.Unknown == "" || e.Source != "tap" {
			t.Errorf("event %+v", e)
		}
		next++
	}
}

// parsed are rules.
func parsed(t *testing.T, text string) *filewatch.Rules {
	t.Helper()
	rules, err := filewatch.ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// nothingLeft holds that neither bitmaps, nodes, jobs nor files are left.
func nothingLeft(t *testing.T, m *disktest.Machine, w *watched) {
	t.Helper()
	for _, command := range []string{"query-named-block-nodes", "query-jobs", "query-block-exports"} {
		var got any
		m.Execute(t, command, nil, &got)
		if strings.Contains(fmt.Sprint(got), "plumbline") {
			t.Errorf("%s: %v", command, got)
		}
	}
	if files, err := os.ReadDir(w.Root); err != nil || len(files) > 0 {
		t.Errorf("left in its directory: %v, %v", files, err)
	}
}

// A content that is changed with all of its metadata as they were is told, with its
// digest.
func TestSourceTellsContentChangedInPlace(t *testing.T) {
	d := newGuestDisk(t, "raw")
	content := strings.Repeat("what is on the disk. ", 400)
	d.run("write " + d.local(content) + " /place")
	w := watch(t, d.m.QMP)
	at := strings.Index(string(d.image), content)
	if at < 0 {
		t.Fatal("the content is not on the disk in one piece")
	}
	if got := w.step(func() { d.m.Write(t, 0, int64(at), []byte(strings.ToUpper(content[:4096]))) }); len(got) != 1 {
		t.Fatalf("events %q", got)
	}
	want := blake3.Sum256([]byte(strings.ToUpper(content[:4096]) + content[4096:]))
	e := w.events[0]
	if d := cmp.Diff([]filewatch.Hash{{Algorithm: "BLAKE3", Value: want[:]}}, e.Hashes); d != "" || e.Path != "/place" ||
		e.Op != filewatch.OpWrite || e.Detail != "its time of modification is what it was" || e.Status != filewatch.Found {
		t.Errorf("%+v %s", e, d)
	}
}

// Someone removes the bitmap: what was written meanwhile is found all the same, and
// that it may not be all is told, with a number left out.
func TestSourceLooksAtEverythingWhereTheBitmapIsLost(t *testing.T) {
	d := newGuestDisk(t, "raw")
	w := watch(t, d.m.QMP)
	got := w.step(func() {
		for name, node := range bitmaps(t, d.m) {
			d.m.Execute(t, "block-dirty-bitmap-remove", map[string]any{"node": node, "name": name}, nil)
		}
		d.run("rm /d3/f3")
	})
	if !slices.Equal(got, []string{"unlink /d3/f3"}) {
		t.Errorf("events %q", got)
	}
	alert := w.alerts[len(w.alerts)-1]
	if alert.Alert != filewatch.AlertGap || alert.Lost != 1 || !strings.Contains(alert.Reason, "bitmap is gone") {
		t.Errorf("alerts %+v", w.alerts)
	}
	sequence(t, w)
}

func bitmaps(t *testing.T, m *disktest.Machine) map[string]string {
	t.Helper()
	var nodes []struct {
		Node    string `json:"node-name"`
		Bitmaps []struct {
			Name string `json:"name"`
		} `json:"dirty-bitmaps"`
	}
	m.Execute(t, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	out := map[string]string{}
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			out[b.Name] = n.Node
		}
	}
	if len(out) == 0 {
		t.Fatal("there is no bitmap")
	}
	return out
}

// An empty file may be one whose content is on its way: its event is not the end, and
// what follows has the digest.
func TestSourceWaitsForContent(t *testing.T) {
	d := newGuestDisk(t, "raw")
	w := watch(t, d.m.QMP, func(s *Source) { s.settling = time.Second })
	w.step(func() { d.run("write " + d.local("") + " /empty") })
	w.wait("both events", func() bool { return len(w.events) >= 2 })
	first, second := w.events[0], w.events[1]
	if first.Op != filewatch.OpCreate || first.Status != filewatch.Ongoing || len(first.Hashes) > 0 {
		t.Errorf("first %+v", first)
	}
	if second.Follows != first.Sequence || second.Status != filewatch.Found || len(second.Hashes) != 1 {
		t.Errorf("second %+v", second)
	}
}

// What the rules ignore is not told, but where it went from or to a place that they
// watch.
func TestSourceGoesByRules(t *testing.T) {
	d := newGuestDisk(t, "raw")
	rules := parsed(t, "[[rule]]\npath=\"/d1/**\"\nlevel=\"ignore\"\n[[rule]]\npath=\"/**\"\nlevel=\"record\"\ncheck=[\"mode\"]\n")
	w := watch(t, d.m.QMP, func(s *Source) { s.Rules = rules })
	got := w.step(func() { d.run("rm /d1/f1", "ln /d1/f2 /out", "unlink /d1/f2", "ln /d4/f2 /d1/in", "unlink /d4/f2") })
	want := []string{"rename /d1/f2 -> /out", "rename /d4/f2 -> /d1/in"}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, e := range w.events {
		if len(e.Hashes) > 0 || e.Level != filewatch.Record {
			t.Errorf("event %+v", e)
		}
	}
}

// QEMU ends and another one runs the same disk, changed meanwhile: the interruption is
// told, and what is different afterwards.
func TestSourceSeesQEMUStartedAnew(t *testing.T) {
	d := newGuestDisk(t, "raw")
	w := watch(t, d.m.QMP)
	d.m.Quit(t)
	w.wait("the alert", func() bool { return len(w.alerts) == 2 })
	d.Debugfs(t, "rm /d3/f3")
	again := disktest.Start(t, "raw:"+d.Image)
	if err := os.Remove(d.m.QMP); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(again.QMP, d.m.QMP); err != nil {
		t.Fatal(err)
	}
	w.wait("the end of the interruption", func() bool { return len(w.alerts) == 3 })
	if d := cmp.Diff([]string{"unlink /d3/f3"}, w.words(0)); d != "" {
		t.Error(d)
	}
	if w.alerts[1].Alert != filewatch.AlertRestart || w.alerts[1].Lost != 1 || w.alerts[2].Alert != filewatch.AlertWatch {
		t.Errorf("alerts %+v", w.alerts)
	}
	sequence(t, w)
	if err := w.stop(); err != context.Canceled {
		t.Error(err)
	}
	nothingLeft(t, again, w)
}

// One who was killed leaves bitmaps and files; the next one takes them away. Two at a
// time do not hurt each other.
func TestSourcesBesideAndAfterEachOther(t *testing.T) {
	d := newGuestDisk(t, "raw")
	root := t.TempDir()
	shared := func(s *Source) { s.Root = root }
	a, b := watch(t, d.m.QMP, shared), watch(t, d.m.QMP, shared)
	if n := len(bitmaps(t, d.m)); n != 2 {
		t.Errorf("%d bitmaps of two sources", n)
	}
	together(func() { d.run("rm /d3/f3") }, a, b)
	for _, w := range []*watched{a, b} {
		w.wait("the event", func() bool { return len(w.events) == 1 })
	}
	b.stop()
	nodes := bitmaps(t, d.m)
	if len(nodes) != 1 {
		t.Errorf("bitmaps %v are left of one source", nodes)
	}
	a.stop()
	// As one that was killed leaves it.
	stale := map[string]any{}
	for name, node := range nodes {
		stale["name"], stale["node"] = name[:len(name)-4]+"dead", node
	}
	d.m.Execute(t, "block-dirty-bitmap-add", stale, nil)
	c := watch(t, d.m.QMP, shared)
	if n := len(bitmaps(t, d.m)); n != 1 {
		t.Errorf("%d bitmaps after one that was killed", n)
	}
	c.stop()
	nothingLeft(t, d.m, c)
}

// What a watch left that was killed is taken away by one that gets another place, and
// what one has that runs is not.
func TestSourceTakesAwayWhatOthersLeft(t *testing.T) {
	d := newGuestDisk(t, "raw")
	root := t.TempDir()
	shared := func(s *Source) { s.Root = root }
	first, runs, killed := watch(t, d.m.QMP, shared), watch(t, d.m.QMP, shared), watch(t, d.m.QMP, shared)
	first.stop()
	id, dir := killed.keeper.Track.ID, killed.keeper.Dir
	stale := map[string]any{}
	for name, node := range bitmaps(t, d.m) {
		if strings.Contains(name, id) {
			stale["name"], stale["node"] = name[:len(name)-4]+"dead", node
		}
	}
	killed.stop()
	// As one that was killed leaves it.
	d.m.Execute(t, "block-dirty-bitmap-add", stale, nil)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "states"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next := watch(t, d.m.QMP, shared)
	for name := range bitmaps(t, d.m) {
		if strings.Contains(name, id) {
			t.Errorf("bitmap %s is left", name)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	if got := runs.step(func() { together(func() { d.run("rm /d3/f3") }, next) }); !slices.Equal(got, []string{"unlink /d3/f3"}) {
		t.Errorf("events of one that ran all the time %q", got)
	}
	runs.stop()
	if len(runs.alerts) != 1 || len(next.alerts) != 1 {
		t.Errorf("alerts %+v, %+v", runs.alerts, next.alerts)
	}
	next.stop()
	nothingLeft(t, d.m, next)
}

// One look reads only so much: what is left over is read by the next, and what is more
// than any reads is told without its content.
func TestSourceReadsOnlySoMuchAtATime(t *testing.T) {
	d := newGuestDisk(t, "raw")
	rules := parsed(t, "[[rule]]\npath=[\"/a\",\"/b\",\"/c\"]\nlevel=\"verify\"\n[[rule]]\npath=\"/**\"\nlevel=\"ignore\"\n")
	w := watch(t, d.m.QMP, func(s *Source) { s.most, s.Rules = 10_000, rules })
	content := func(n int) string { return d.local(strings.Repeat("x", n)) }
	w.step(func() {
		d.run("write "+content(6000)+" /a", "write "+content(7000)+" /b", "write "+content(20_000)+" /c")
	})
	w.wait("what was left over", func() bool {
		return slices.ContainsFunc(w.events, func(e *filewatch.Event) bool { return e.Op == filewatch.OpWrite && e.Path == "/b" })
	})
	digested := map[string]int{}
	for _, e := range w.events {
		digested[e.Op.String()+" "+e.Path] = len(e.Hashes)
	}
	want := map[string]int{"create /a": 1, "create /b": 0, "write /b": 1, "create /c": 0}
	if d := cmp.Diff(want, digested); d != "" {
		t.Error(d)
	}
}

// Contents that are written anew as they were are no change, whichever look reads them.
func TestSourceKnowsWhatItReadsLater(t *testing.T) {
	d := newGuestDisk(t, "raw")
	contents := []string{strings.Repeat("one ", 2000), strings.Repeat("two ", 2000), strings.Repeat("three", 2000)}
	for i, c := range contents {
		d.run(fmt.Sprintf("write %s /n%d", d.local(c), i))
	}
	rules := parsed(t, "[[rule]]\npath=\"/n?\"\nlevel=\"verify\"\n[[rule]]\npath=\"/**\"\nlevel=\"ignore\"\n")
	w := watch(t, d.m.QMP, func(s *Source) { s.most, s.Rules = 10_000, rules })
	w.step(func() {
		for i, c := range contents {
			at := strings.Index(string(d.image), c)
			if at < 0 {
				t.Fatal("the content is not on the disk in one piece")
			}
			if i == 2 {
				c = "T" + c[1:]
			}
			d.m.Write(t, 0, int64(at), []byte(c[:4096]))
		}
	})
	w.wait("what is read later", func() bool { return len(w.events) > 0 })
	for range 3 {
		w.step(func() {})
	}
	if d := cmp.Diff([]string{"write /n2: its time of modification is what it was"}, w.words(0)); d != "" {
		t.Error(d)
	}
}

// A guest changes more between two looks than is held in memory of a volume, each
// object of it: every one is told, and none is left out.
func TestSourceTellsEveryChangeOfMany(t *testing.T) {
	const files = 20_000
	dir := t.TempDir()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	var commands strings.Builder
	for i := range files {
		path := fmt.Sprintf("d%d/f%d", i/1000, i)
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(path)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(tree, path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&commands, "set_inode_field /%s mode 0104755\n", path)
	}
	volumetest.Tool(t, "mke2fs", "-q", "-t", "ext4", "-N", "30000", "-d", tree, image, "128M")
	now := filepath.Join(dir, "now")
	volumetest.Tool(t, "cp", "--sparse=always", image, now)
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(commands.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.Tool(t, "debugfs", "-w", "-f", script, now)
	live := filepath.Join(dir, "live")
	volumetest.Tool(t, "cp", "--sparse=always", image, live)
	m := disktest.Start(t, "raw:"+live)
	w := watch(t, m.QMP)
	w.step(func() { m.BecomeFile(t, 0, image, now) })
	seen := map[string]bool{}
	for _, e := range w.events {
		if e.Op != filewatch.OpChmod || seen[e.Path] {
			t.Fatalf("event %+v", e)
		}
		seen[e.Path] = true
	}
	if len(seen) != files || len(w.alerts) != 1 {
		t.Errorf("%d events of %d changes, alerts %+v", len(seen), files, w.alerts)
	}
	sequence(t, w)
}

// interrupting ends a watch when the disks have been opened.
type interrupting struct{ interrupt func() }

func (i interrupting) Lock()   {}
func (i interrupting) Unlock() { i.interrupt() }

// An interrupt in the middle of a look, be it the first, leaves nothing behind.
func TestSourceInterruptedInALook(t *testing.T) {
	d := newGuestDisk(t, "raw")
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{t: t, Source: &Source{QMP: d.m.QMP, Root: t.TempDir(), Monitor: interrupting{cancel}}}
	err := w.Events(ctx, func(*filewatch.Event) error { return nil })
	if err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
	nothingLeft(t, d.m, w)
}
