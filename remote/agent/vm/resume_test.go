package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

var progressKey = &baseline.ProgressKey{1: 1}

// interrupt begins a scan and ends it when so many pieces of content were read. It
// says whether the scan was still at it.
func interrupt(t *testing.T, s *Since, pieces int64) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	limited := *s
	var n atomic.Int64
	limited.Capture.Limit = func(ctx context.Context, _ int) error {
		if n.Add(1) == pieces {
			cancel()
		}
		return ctx.Err() // as a real limit does: no scan ends before it sees that it is over
	}
	_, _, err := limited.Check(ctx)
	if err == nil {
		return false
	}
	if !errors.Is(err, ErrInterrupted) || !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted scan: %v", err)
	}
	return true
}

// A scan of a running machine that is interrupted again and again while the
// machine writes reports what a scan of everything at its last start does, and
// reads only a part. Some of the writes come past the file system and leave every
// time and size as it was.
func TestResumedScanReportsWhatAFullScanReports(t *testing.T) {
	for _, options := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-O", "fast_commit,inline_data"}, {"-t", "ext2", "-b", "1024"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			c := volumetest.NewChanges(t, options...)
			rules := parsed(t)
			base := captureOf(t, c.Image, rules)
			live := filepath.Join(t.TempDir(), "live")
			before := copied(t, c.Image, live)
			m := disktest.Start(t, "raw:"+live)
			rewritten := 0
			for round := range 4 {
				s := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules,
					Capture: baseline.CaptureOptions{Rules: rules}, Once: round%2 == 0, FullEvery: 1, Resume: progressKey}
				times := 0
				for range 1 + c.Random.IntN(4) {
					if interrupt(t, s, 1+c.Random.Int64N(250)) {
						times++
					} else {
						times = 0
					}
					c.Change(t)
					after, err := os.ReadFile(c.Image)
					if err != nil {
						t.Fatal(err)
					}
					rewritten += rewriteInPlace(t, c, after)
					m.Become(t, 0, before, after)
					before = after
				}
				report, how := check(t, s)
				if d := cmp.Diff(fully(t, c.Image, base, rules), told(t, report)); d != "" {
					t.Fatalf("round %d: full scan against resumed:\n%s", round, d)
				}
				if !how.Full || how.Anew != "" || times > 0 && (how.Resumed == nil || how.Resumed.Times != times || len(how.Resumed.Anew) > 0) {
					t.Errorf("round %d, %d interruptions: %+v, %+v", round, times, how, how.Resumed)
				}
				t.Logf("round %d: %d interruptions, %+v, %d bytes read", round, times, how.Resumed, how.Bytes)
				nothingLeft(t, m, s)
			}
			if rewritten < 10 {
				t.Errorf("%d blocks were rewritten in place", rewritten)
			}
		})
	}
}

// rewriteInPlace changes a block of the content of some files and nothing else.
func rewriteInPlace(t *testing.T, c *volumetest.Changes, image []byte) (rewritten int) {
	t.Helper()
	size := int64(4096)
	if strings.Contains(volumetest.Tool(t, "dumpe2fs", "-h", c.Image), "Block size:               1024") {
		size = 1024
	}
	var commands strings.Builder
	for i := range 32 {
		fmt.Fprintf(&commands, "blocks /d%d/f%d\n", i%8, c.Random.IntN(40))
	}
	path := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(path, []byte(commands.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(volumetest.Tool(t, "debugfs", "-f", path, c.Image)) {
		var block int64
		if _, err := fmt.Sscan(line, &block); err == nil && block > 0 { // else removed, empty, a hole, an answer's prompt
			image[block*size] ^= 0xff
			rewritten++
		}
	}
	if err := os.WriteFile(c.Image, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return rewritten
}

// nothingLeft wants no progress, and no bitmap in QEMU but that of a stored state.
func nothingLeft(t *testing.T, m *disktest.Machine, s *Since) {
	t.Helper()
	if _, err := os.Stat(s.Dir + ".progress"); !os.IsNotExist(err) {
		t.Errorf("progress is left behind: %v", err)
	}
	left := 0
	for _, names := range bitmaps(t, m) {
		for _, name := range names {
			if strings.HasPrefix(name, "plumbline-"+trackID(absolute(s.Dir))) {
				left++
			}
		}
	}
	want := 1
	if s.Once {
		want = 0
	}
	if left != want {
		t.Errorf("%d bitmaps are left in QEMU, want %d", left, want)
	}
}

// bitmaps are the names of all bitmaps in QEMU, by the node they are on.
func bitmaps(t *testing.T, m *disktest.Machine) map[string][]string {
	t.Helper()
	var nodes []struct {
		Name    string                  `json:"node-name"`
		Bitmaps []struct{ Name string } `json:"dirty-bitmaps"`
	}
	m.Execute(t, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	out := map[string][]string{}
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			out[n.Name] = append(out[n.Name], b.Name)
		}
	}
	return out
}

// Where it is not certain that a content is what it was, nothing is taken over, and
// the reason is named.
func TestResumeTakesNothingOverThatIsNotCertain(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		spoil  func(t *testing.T, s *Since, m *disktest.Machine)
	}{
		"bitmap removed": {"bitmap is gone", func(t *testing.T, _ *Since, m *disktest.Machine) {
			for node, names := range bitmaps(t, m) {
				for _, name := range names {
					m.Execute(t, "block-dirty-bitmap-remove", map[string]any{"node": node, "name": name}, nil)
				}
			}
		}},
		"progress damaged": {"no progress file", func(t *testing.T, s *Since, _ *disktest.Machine) { flip(t, s.Dir+".progress") }},
		"progress of another key": {"without the key", func(_ *testing.T, s *Since, _ *disktest.Machine) {
			s.Resume = &baseline.ProgressKey{1: 2}
		}},
		"other rules":   {"other rules", func(_ *testing.T, s *Since, _ *disktest.Machine) { s.Rules, s.Capture.Rules = nil, nil }},
		"other machine": {"another machine", func(_ *testing.T, s *Since, _ *disktest.Machine) { s.Name = "other" }},
		"another scan between": {"bitmap is gone", func(t *testing.T, s *Since, _ *disktest.Machine) {
			other := *s
			other.Resume, other.Once = nil, true
			check(t, &other)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			changes := volumetest.NewChanges(t, "-t", "ext4", "-O", "^has_journal")
			rules := parsed(t)
			base := captureOf(t, changes.Image, rules)
			live := filepath.Join(t.TempDir(), "live")
			before := copied(t, changes.Image, live)
			m := disktest.Start(t, "raw:"+live)
			s := &Since{Place: Place{QMP: m.QMP}, Dir: t.TempDir(), Baseline: base, Rules: rules, Resume: progressKey, Capture: baseline.CaptureOptions{Rules: rules}}
			if !interrupt(t, s, 60) {
				t.Fatal("not interrupted")
			}
			c.spoil(t, s, m)
			rewriteAll(t, changes, m, before)
			report, how := check(t, s)
			if how.Resumed != nil || !strings.Contains(how.Anew, c.reason) {
				t.Errorf("how: %+v, want the reason %q", how, c.reason)
			}
			if d := cmp.Diff(fully(t, changes.Image, base, s.Rules), told(t, report)); d != "" {
				t.Errorf("full scan against this one:\n%s", d)
			}
		})
	}
}

func rewriteAll(t *testing.T, c *volumetest.Changes, m *disktest.Machine, before []byte) {
	t.Helper()
	c.Debugfs(t, "rm /d0/f0", "set_inode_field /d0/f1 mode 0100711")
	after, err := os.ReadFile(c.Image)
	if err != nil {
		t.Fatal(err)
	}
	rewriteInPlace(t, c, after)
	m.Become(t, 0, before, after)
}

// A scan of an image goes on only while the image has not been written to.
func TestResumeOfAnImage(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	base := captureOf(t, c.Image, rules)
	s := &Since{Place: Place{Images: []string{c.Image}}, Dir: t.TempDir(), Baseline: base, Rules: rules, Once: true,
		Resume: progressKey, Capture: baseline.CaptureOptions{Rules: rules}}
	var told []string
	s.OnResume = func(text string) { told = append(told, text) }
	if _, how := check(t, s); how.Resumed != nil || len(told) != 1 || !strings.Contains(told[0], "was written to just now") {
		t.Errorf("of a fresh image: %+v, %q", how, told)
	}
	time.Sleep(settled + 100*time.Millisecond)
	for range 2 {
		if !interrupt(t, s, 60) {
			t.Fatal("not interrupted")
		}
	}
	report, how := check(t, s)
	if how.Resumed == nil || how.Resumed.Times != 2 || how.Resumed.Objects < 60 || len(report.Changes) > 0 {
		t.Errorf("resumed: %+v, %d changes", how.Resumed, len(report.Changes))
	}
	interrupt(t, s, 60)
	info, err := os.Stat(c.Image)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(c.Image)
	if err != nil {
		t.Fatal(err)
	}
	rewriteInPlace(t, c, image)
	if err := os.Chtimes(c.Image, time.Time{}, info.ModTime()); err != nil { // put back
		t.Fatal(err)
	}
	if _, how = check(t, s); how.Resumed != nil || !strings.Contains(how.Anew, "was written to since") {
		t.Errorf("of a changed image: %+v", how)
	}
	time.Sleep(settled + 100*time.Millisecond)
	interrupt(t, s, 60)
	s.Capture.Limit = func(context.Context, int) error { return os.Chtimes(c.Image, time.Time{}, time.Now()) }
	if _, _, err := s.Check(t.Context()); !errors.Is(err, errWritten) {
		t.Errorf("of an image that is written to meanwhile: %v", err)
	}
}

// A write that no time of the image shows is seen by what it did to a superblock.
func TestResumeSeesAnotherSuperblock(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	s := &Since{Place: Place{Images: []string{c.Image}}}
	open := func() *opened {
		o, err := s.openSince(t.Context(), nil, "", disk.Running.OpenSince)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.set.Close() })
		o.reason = ""
		return o
	}
	dir := t.TempDir()
	begin := func() *resuming {
		o := open()
		for i := range o.images {
			o.images[i].Seen = o.images[i].Seen.Add(time.Hour)
		}
		r, err := s.openResuming(dir, progressKey, nil, alone)
		if err != nil {
			t.Fatal(err)
		}
		g, err := guest.OnDisks(o.set)
		if err == nil {
			err = r.begin(o, g, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	begin().Close()
	r := begin()
	if r.lost != "" || r.times != 1 {
		t.Errorf("nothing changed: lost %q, interrupted %d times", r.lost, r.times)
	}
	r.Close()
	volumetest.Tool(t, "tune2fs", "-C", "7", c.Image)
	if r = begin(); !strings.Contains(r.lost, "nothing else tells") {
		t.Errorf("superblock changed: lost %q", r.lost)
	}
	r.Close()
}

// What a resumed capture writes is, byte for byte, what one that was not
// interrupted writes, whatever the file system.
func TestResumedCaptureWritesTheSameBytes(t *testing.T) {
	key, err := sign.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{"ext4": volumetest.NewChanges(t, "-t", "ext4").Image}
	for name, each := range series {
		images[name] = filepath.Join(t.TempDir(), "image")
		each(t, func(image []byte) { // the last state stays
			if err := os.WriteFile(images[name], image, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	time.Sleep(settled + 100*time.Millisecond)
	for name, image := range images {
		t.Run(name, func(t *testing.T) { resumesToTheSameBytes(t, image, key) })
	}
}

func resumesToTheSameBytes(t *testing.T, image string, key sign.Signer) {
	rules := parsed(t)
	edition := &baseline.Edition{Lineage: "l", Version: 1, Created: time.Unix(1, 0)}
	write := func(s *Since) []byte {
		t.Helper()
		var out bytes.Buffer
		_, how, err := s.Write(t.Context(), &out, edition, key)
		if err != nil {
			t.Fatal(err)
		}
		// How many of the 50 pieces were whole objects, the scheduler says.
		if s.Resume != nil && (how.Resumed == nil || how.Resumed.Objects == 0) {
			t.Errorf("resumed: %+v, %+v", how, how.Resumed)
		}
		return out.Bytes()
	}
	since := func() *Since {
		return &Since{Place: Place{Images: []string{image}}, Dir: t.TempDir(), Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}, Once: true}
	}
	resumed := since()
	resumed.Resume = progressKey
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var n atomic.Int64
	interrupted := *resumed
	interrupted.Capture.Limit = func(ctx context.Context, _ int) error {
		if n.Add(1) == 50 {
			cancel()
		}
		return ctx.Err()
	}
	if _, _, err := interrupted.Write(ctx, &bytes.Buffer{}, edition, key); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	if !bytes.Equal(write(since()), write(resumed)) {
		t.Error("another baseline")
	}
}
