package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// rulesOfMany kinds: files that only grow, digests of two kinds, files that are
// not read, and some that are of no interest.
const rulesOfMany = `
[[rule]]
path = "/d1/**"
level = "verify"
check = ["growing", "mode"]

[[rule]]
path = "/d2/**"
level = "protect"
check = ["all", "sha256"]

[[rule]]
path = "/d3/**"
level = "record"
check = ["mode", "owner"]

[[rule]]
path = "/d4/**"
level = "ignore"

[[rule]]
path = "/d5/**"
level = "verify"
check = ["all"]
diff = true

[[rule]]
path = "**"
level = "verify"
check = ["all"]
`

// captureOf is a baseline of an image.
func captureOf(t *testing.T, image string, rules *filewatch.Rules) *baseline.Baseline {
	t.Helper()
	key, err := sign.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	snapshot(t, []string{image}, "", nil, rules, func(_ *Files, snap *baseline.Snapshot) {
		if _, err := snap.Write(&out, &baseline.Edition{Lineage: "l", Version: 1}, key); err != nil {
			t.Fatal(err)
		}
	})
	b, err := baseline.OpenBytes(out.Bytes(), &baseline.OpenOptions{AnySigner: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// snapshot captures everything that images or a machine hold; b may be nil.
func snapshot(t *testing.T, images []string, socket string, b *baseline.Baseline, rules *filewatch.Rules, use func(*Files, *baseline.Snapshot)) {
	t.Helper()
	files, err := OpenFiles(t.Context(), &Place{QMP: socket, Images: images})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	o := &baseline.CaptureOptions{Rules: rules}
	if b != nil {
		if err := o.Follow(b); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := baseline.Capture(t.Context(), files, o)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	use(files, snap)
}

// fully is what a scan of everything says.
func fully(t *testing.T, image string, b *baseline.Baseline, rules *filewatch.Rules) (text string) {
	t.Helper()
	snapshot(t, []string{image}, "", b, rules, func(_ *Files, snap *baseline.Snapshot) { text = compared(t, b, snap) })
	return text
}

func compared(t *testing.T, b *baseline.Baseline, snap *baseline.Snapshot) string {
	t.Helper()
	report, err := baseline.Compare(b, snap)
	if err != nil {
		t.Fatal(err)
	}
	return told(t, report)
}

// told is a report in words.
func told(t *testing.T, r *baseline.Report) string {
	t.Helper()
	text, err := json.MarshalIndent(map[string]any{"objects": r.Objects, "changes": r.Changes, "outcome": r.Outcome()}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parsed(t *testing.T) *filewatch.Rules {
	t.Helper()
	rules, err := filewatch.ParseRules([]byte(rulesOfMany))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// A machine that is written to between scans: each incremental scan reports what a
// full one would, earlier differences included.
func TestSinceReportsWhatAFullScanReports(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	c.Debugfs(t, "rm /d5/f4", "write "+grown(t, 9)+" /d5/f4")
	rules := parsed(t)
	base := captureOf(t, c.Image, rules)
	live := filepath.Join(t.TempDir(), "live")
	before := copied(t, c.Image, live)
	m := disktest.Start(t, "raw:"+live)
	since := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	lookedAt(t, since, c.Image)
	if _, how := check(t, since); !how.Full || !strings.Contains(how.Reason, "there is none") {
		t.Errorf("first scan: %+v", how)
	}
	if report, how := check(t, since); how.Full || how.Looked != 0 || len(report.Changes) != 0 {
		t.Errorf("scan of nothing new: %+v, %d changes", how, len(report.Changes))
	}
	for round := range 10 {
		c.Change(t)
		text := grown(t, round)
		c.Debugfs(t, "rm /d1/f3", "write "+text+" /d1/f3", // a log
			fmt.Sprintf("set_inode_field /d5/f4 mode 0100%03o", round+0o600), // of a text
			"rm /d6/f7", "write "+text+" /d6/f7", fmt.Sprintf("ln /d6/f7 /d5/came%d", round), "set_inode_field /d6/f7 links_count 2") // that comes under the rule
		if round%2 == 0 { // the text itself
			c.Debugfs(t, "rm /d5/f4", "write "+text+" /d5/f4")
		}
		after, err := os.ReadFile(c.Image)
		if err != nil {
			t.Fatal(err)
		}
		m.Become(t, 0, before, after)
		before = after
		report, how := check(t, since)
		if how.Full || len(how.Whole) > 0 || how.NotKept != "" {
			t.Fatalf("round %d: %+v", round, how)
		}
		if how.Looked == 0 {
			t.Errorf("round %d: nothing was looked at", round)
		}
		want := fully(t, c.Image, base, rules)
		if d := cmp.Diff(want, told(t, report)); d != "" {
			t.Fatalf("round %d: full scan against incremental:\n%s", round, d)
		}
		if report, how = check(t, since); how.Full || how.Bytes != 0 || cmp.Diff(want, told(t, report)) != "" {
			t.Fatalf("round %d, nothing new: %+v\n%s", round, how, cmp.Diff(want, told(t, report)))
		}
	}
}

// Accepting changes makes a baseline that the state is set against: the next scan
// is incremental still and reports what a full one would, whatever was accepted and
// whether the state has it already. Where the state does not know enough, the next
// scan is full and says so.
func TestSinceStaysIncrementalAfterAccept(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	base := captureOf(t, c.Image, rules)
	key, err := sign.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	live := filepath.Join(t.TempDir(), "live")
	before := copied(t, c.Image, live)
	m := disktest.Start(t, "raw:"+live)
	since := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	check(t, since)
	change := func(round int) {
		c.Change(t)
		c.Debugfs(t, "rm /d1/f3", "write "+grown(t, round)+" /d1/f3") // a log
		after, err := os.ReadFile(c.Image)
		if err != nil {
			t.Fatal(err)
		}
		m.Become(t, 0, before, after)
		before = after
	}
	kept, scans := 0, 0
	for round := range 8 {
		change(round)
		report, _ := check(t, since)
		older := round%4 == 3
		if older { // the state does not have what is accepted
			change(round + 1)
			snapshot(t, []string{c.Image}, "", since.Baseline, rules, func(_ *Files, snap *baseline.Snapshot) {
				if report, err = baseline.Compare(since.Baseline, snap); err != nil {
					t.Fatal(err)
				}
			})
		}
		var chosen []*baseline.Change
		for i, change := range report.Changes {
			if i%3 != round%3 && change.Kind != baseline.Unmeasured && !change.Partial {
				chosen = append(chosen, change)
			}
		}
		if len(chosen) == 0 { // so few changes that none is of those to choose
			continue
		}
		var out bytes.Buffer
		if _, err := baseline.Accept(since.Baseline, chosen, &baseline.Decision{Time: time.Now(), Author: "a", Reason: "r"}, &out, key); err != nil {
			t.Fatal(err)
		}
		next, err := baseline.OpenBytes(out.Bytes(), &baseline.OpenOptions{AnySigner: true})
		if err != nil {
			t.Fatal(err)
		}
		last, err := baseline.OpenLast(since.Dir, &since.Baseline.Header, rules)
		if err != nil {
			t.Fatal(err)
		}
		since.Baseline = next
		refused := last.Against(next, rules)
		if refused != nil && !older {
			t.Errorf("round %d: %v", round, refused)
		}
		for again := range 2 {
			report, how := check(t, since)
			if how.Full != (refused != nil && again == 0) {
				t.Errorf("round %d, scan %d after accepting: %+v, the state was refused: %v", round, again, how, refused)
			}
			scans++
			if !how.Full {
				kept++
			}
			if d := cmp.Diff(fully(t, c.Image, next, rules), told(t, report)); d != "" {
				t.Fatalf("round %d, scan %d: full scan against incremental:\n%s", round, again, d)
			}
			change(round + 2)
		}
	}
	if scans == 0 || kept*4 < scans*3 {
		t.Errorf("%d of %d scans were incremental", kept, scans)
	}
}

// grown is a file that has grown, or in some rounds lost its beginning.
func grown(t *testing.T, round int) string {
	t.Helper()
	text := strings.Repeat("line\n", 10+1000*round)
	if round%4 == 3 {
		text = "other" + text
	}
	path := filepath.Join(t.TempDir(), "grown")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func check(t *testing.T, s *Since) (*baseline.Report, *How) {
	t.Helper()
	report, how, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report, how
}

func copied(t *testing.T, from, to string) []byte {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever is wrong with the state of the last scan: everything is read, the
// reason is named, and the change is found.
func TestSinceReadsEverythingWithoutItsState(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		spoil  func(t *testing.T, s *Since, file func(pattern string) string)
	}{
		"records damaged": {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("records-*")) }},
		"memory damaged":  {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("memory-*")) }},
		"diff damaged":    {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("differing-*")) }},
		"head damaged":    {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("last.json")) }},
		"head gone":       {"there is none", func(t *testing.T, _ *Since, file func(string) string) { remove(t, file("last.json")) }},
		"delta damaged":   {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("delta-*")) }},
		"delta torn":      {"damaged", func(t *testing.T, _ *Since, file func(string) string) { tear(t, file("delta-*")) }},
		"ids damaged":     {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("ids-*")) }},
		"volume damaged":  {"damaged", func(t *testing.T, _ *Since, file func(string) string) { flip(t, file("volume-*")) }},
		"volume torn":     {"damaged", func(t *testing.T, _ *Since, file func(string) string) { tear(t, file("volume-*")) }},
		"volume gone":     {"no such file", func(t *testing.T, _ *Since, file func(string) string) { remove(t, file("volume-*")) }},
		"records gone":    {"no such file", func(t *testing.T, _ *Since, file func(string) string) { remove(t, file("records-*")) }},
		"older": {"bitmap is gone", func(t *testing.T, s *Since, file func(string) string) {
			saved := t.TempDir()
			if err := os.CopyFS(saved, os.DirFS(s.Dir)); err != nil {
				t.Fatal(err)
			}
			if _, how := check(t, s); how.Full {
				t.Fatal("the scan that is to be undone was full")
			}
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(s.Dir, os.DirFS(saved)); err != nil {
				t.Fatal(err)
			}
		}},
		"other rules": {"other rules", func(t *testing.T, s *Since, _ func(string) string) { s.Rules, s.Capture.Rules = nil, nil }},
		"periodic":    {"1 scans ago", func(t *testing.T, s *Since, _ func(string) string) { s.FullEvery = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			changes := volumetest.NewChanges(t, "-t", "ext4", "-O", "^has_journal")
			rules := parsed(t)
			base := captureOf(t, changes.Image, rules)
			live := filepath.Join(t.TempDir(), "live")
			before := copied(t, changes.Image, live)
			m := disktest.Start(t, "raw:"+live)
			s := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
			check(t, s)
			changes.Debugfs(t, "rm /d0/f0", "set_inode_field /d0/f1 mode 0100711")
			after, err := os.ReadFile(changes.Image)
			if err != nil {
				t.Fatal(err)
			}
			m.Become(t, 0, before, after)
			c.spoil(t, s, func(pattern string) string {
				found, err := filepath.Glob(filepath.Join(s.Dir, pattern))
				if err != nil || len(found) != 1 {
					t.Fatalf("%s: %q, %v", pattern, found, err)
				}
				return found[0]
			})
			report, how := check(t, s)
			if !how.Full || !strings.Contains(how.Reason, c.reason) {
				t.Errorf("how: %+v, want the reason %q", how, c.reason)
			}
			if d := cmp.Diff(fully(t, changes.Image, base, s.Rules), told(t, report)); d != "" {
				t.Errorf("full scan against this one:\n%s", d)
			}
			if report.Outcome() != "fail" {
				t.Errorf("the change was not found: %s", told(t, report))
			}
		})
	}
}

// Nothing was written, so that no disk is opened at first, and then the state turns
// out to be damaged.
func TestSinceReadsEverythingWhenAnUnchangedStateIsDamaged(t *testing.T) {
	changes := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	base := captureOf(t, changes.Image, rules)
	changes.Debugfs(t, "rm /d0/f0", "set_inode_field /d0/f1 mode 0100711")
	m := disktest.Start(t, "raw:"+changes.Image)
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
	for _, want := range []bool{false, true, false} {
		if want {
			found, err := filepath.Glob(filepath.Join(s.Dir, "records-*"))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			flip(t, found[0])
		}
		report, how := check(t, s)
		if how.Full != want || how.NotKept != "" || !want && how.Looked > 0 {
			t.Errorf("how: %+v, want full %v", how, want)
		}
		if d := cmp.Diff(fully(t, changes.Image, base, rules), told(t, report)); d != "" {
			t.Errorf("full scan against this one:\n%s", d)
		}
	}
}

// flip changes a bit of every part that is read alone.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		t.Fatalf("%s is empty", path)
	}
	for at := 0; at < len(b); at += 512 {
		b[at] ^= 1
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tear leaves of a file what a crash while it is written may leave.
func tear(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A copy of a template is read where it holds blocks of its own, and reported as a
// full scan reports it; so is the template itself once it changed.
func TestTemplateCopies(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	base := captureOf(t, c.Image, rules)
	dir := t.TempDir()
	template, clone := filepath.Join(dir, "template"), filepath.Join(dir, "clone")
	before := copied(t, c.Image, template)
	volumetest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", template, "-F", "raw", clone)
	c.Change(t)
	after, err := os.ReadFile(c.Image)
	if err != nil {
		t.Fatal(err)
	}
	m := disktest.Start(t, "qcow2:"+clone)
	m.Become(t, 0, before, after)
	m.Quit(t)
	want := fully(t, c.Image, base, rules)

	state := t.TempDir()
	of := func(images []string, template string) *Since {
		return &Since{Place: Place{Name: "copy", Images: images, Template: template}, Dir: state, Baseline: base, Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	}
	report, how := check(t, of([]string{clone}, template))
	if !how.Full || told(t, report) != want {
		t.Errorf("without the template's state: %+v\n%s", how, cmp.Diff(want, told(t, report)))
	}
	time.Sleep(settled + 100*time.Millisecond) // else its times say nothing
	check(t, of([]string{template}, ""))
	for range 2 {
		report, how = check(t, lookedAt(t, of([]string{clone}, template), c.Image))
		if how.Full || how.Looked == 0 || told(t, report) != want {
			t.Errorf("copy: %+v\n%s", how, cmp.Diff(want, told(t, report)))
		}
	}
	report, how = check(t, of([]string{template}, ""))
	if how.Full || how.Looked > 0 || len(report.Changes) > 0 {
		t.Errorf("the template itself: %+v, %d changes", how, len(report.Changes))
	}
	copied(t, c.Image, template)
	report, how = check(t, of([]string{clone}, template))
	if !how.Full || !strings.Contains(how.Reason, "was written to") || told(t, report) != want {
		t.Errorf("copy of a template that changed: %+v\n%s", how, cmp.Diff(want, told(t, report)))
	}
}

// A capture that builds on the last one writes what a whole one writes.
func TestSinceWritesWhatAWholeCaptureWrites(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	live := filepath.Join(t.TempDir(), "live")
	before := copied(t, c.Image, live)
	m := disktest.Start(t, "raw:"+live)
	key, err := sign.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	for round := range 5 {
		var out bytes.Buffer
		h, how, err := s.Write(t.Context(), &out, &baseline.Edition{Lineage: "l", Version: 1}, key)
		if err != nil {
			t.Fatal(err)
		}
		if how.Full != (round == 0) {
			t.Errorf("round %d: %+v", round, how)
		}
		if want := captureOf(t, c.Image, rules).Header; h.Body.BLAKE3 != want.Body.BLAKE3 || h.Unread != want.Unread || h.Objects != want.Objects {
			t.Errorf("round %d: %d objects, digest %s; whole: %d, %s", round, h.Objects, h.Body.BLAKE3, want.Objects, want.Body.BLAKE3)
		}
		if round%2 == 0 { // every other time nothing changes
			c.Change(t)
			after, err := os.ReadFile(c.Image)
			if err != nil {
				t.Fatal(err)
			}
			m.Become(t, 0, before, after)
			before = after
		}
	}
}
