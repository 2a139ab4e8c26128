package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// copyStory is a template, its baseline and state, and a copy of it that was
// written to, with blocks rewritten past the file system among that.
type copyStory struct {
	*volumetest.Changes // Image is what the copy reads as
	dir, state          string
	template, clone     string
	base                *baseline.Baseline
	rules               *filewatch.Rules
	told                []string
}

func newCopyStory(t *testing.T) *copyStory {
	t.Helper()
	s := &copyStory{Changes: volumetest.NewChanges(t, "-t", "ext4"), dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state"), rules: parsed(t)}
	s.Debugfs(t, "rm /d1/f3", "write "+grown(t, 0)+" /d1/f3") // a log
	s.base = captureOf(t, s.Image, s.rules)
	s.template, s.clone = filepath.Join(s.dir, "template"), filepath.Join(s.dir, "clone")
	before := copied(t, s.Image, s.template)
	volumetest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.template, "-F", "raw", s.clone)
	for range 4 {
		s.Change(t)
	}
	s.Debugfs(t, "rm /d1/f3", "write "+grown(t, 2)+" /d1/f3")
	after, err := os.ReadFile(s.Image)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		rewriteInPlace(t, s.Changes, after)
	}
	m := disktest.Start(t, "qcow2:"+s.clone)
	m.Become(t, 0, before, after)
	m.Quit(t)
	time.Sleep(settled + 100*time.Millisecond) // else the images' times say nothing
	once := s.of(s.template)
	once.Place = Place{Images: []string{s.template}}
	check(t, once)
	return s
}

// of is a scan of a copy.
func (s *copyStory) of(clone string) *Since {
	return &Since{Place: Place{Name: "copy", Images: []string{clone}, Template: s.template}, Dir: s.state, Baseline: s.base, Rules: s.rules,
		Resume: progressKey, Capture: baseline.CaptureOptions{Rules: s.rules}, OnResume: func(text string) { s.told = append(s.told, text) }}
}

func (s *copyStory) progress(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(s.state + "*.progress")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A scan of a copy that looks at nothing but what the copy holds itself, and is
// interrupted again and again, reports what a scan of everything does and reads no
// content twice.
func TestResumeOfACopy(t *testing.T) {
	s := newCopyStory(t)
	want := fully(t, s.Image, s.base, s.rules)
	uninterrupted := s.of(s.clone)
	var pieces atomic.Int64 // of contents, which the changes decide on
	uninterrupted.Capture.Limit = func(context.Context, int) error { pieces.Add(1); return nil }
	report, how := check(t, uninterrupted)
	if how.Full || how.Resumed != nil || how.Bytes == 0 || told(t, report) != want {
		t.Fatalf("uninterrupted: %+v\n%s", how, cmp.Diff(want, told(t, report)))
	}
	whole := how.Bytes
	for range 3 {
		if !interrupt(t, s.of(s.clone), pieces.Load()/4) {
			t.Fatalf("not interrupted, with %d pieces", pieces.Load())
		}
	}
	report, how = check(t, lookedAt(t, s.of(s.clone), s.Image))
	if how.Full || how.Anew != "" || how.Resumed == nil || how.Resumed.Times != 3 || how.Resumed.Objects < 10 || how.Bytes+how.Resumed.Bytes != whole {
		t.Errorf("resumed: %+v, %+v; uninterrupted %d bytes", how, how.Resumed, whole)
	}
	if d := cmp.Diff(want, told(t, report)); d != "" {
		t.Errorf("full scan against resumed:\n%s", d)
	}
	if left := s.progress(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// The template's state is lost meanwhile: all is looked at, what was read is
	// not read again.
	interrupt(t, s.of(s.clone), 20)
	if err := os.RemoveAll(s.state); err != nil {
		t.Fatal(err)
	}
	interrupt(t, s.of(s.clone), 20)
	report, how = check(t, s.of(s.clone))
	if d := cmp.Diff(want, told(t, report)); !how.Full || how.Resumed == nil || how.Resumed.Times != 2 || how.Resumed.Objects < 10 || d != "" {
		t.Errorf("without the template's state: %+v, %+v\n%s", how, how.Resumed, d)
	}
}

// What was read of a copy counts only while copy and template are the files they
// were, and for no other copy.
func TestResumeOfAnotherCopyTakesNothingOver(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		spoil  func(t *testing.T, s *copyStory)
	}{
		"copy changed":     {"clone was written to since", func(t *testing.T, s *copyStory) { rewritten(t, s.clone) }},
		"template changed": {"template was written to since", func(t *testing.T, s *copyStory) { rewritten(t, s.template) }},
		"copy exchanged": {"clone is another file", func(t *testing.T, s *copyStory) {
			copied(t, s.clone, s.clone+".new")
			if err := os.Rename(s.clone+".new", s.clone); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newCopyStory(t)
			if !interrupt(t, s.of(s.clone), 20) {
				t.Fatal("not interrupted")
			}
			c.spoil(t, s)
			_, how := check(t, s.of(s.clone))
			if how.Resumed != nil || !strings.Contains(how.Anew, c.reason) {
				t.Errorf("%+v, %+v; want the reason %q", how, how.Resumed, c.reason)
			}
		})
	}
	t.Run("another copy", func(t *testing.T) {
		t.Parallel()
		s := newCopyStory(t)
		other := filepath.Join(s.dir, "other")
		copied(t, s.clone, other)
		if !interrupt(t, s.of(s.clone), 20) {
			t.Fatal("not interrupted")
		}
		if _, how := check(t, s.of(other)); how.Resumed != nil || how.Anew != "" {
			t.Errorf("the other copy: %+v, %+v", how, how.Resumed)
		}
		if _, how := check(t, s.of(s.clone)); how.Resumed == nil {
			t.Errorf("the copy after the other: %+v", how)
		}
	})
	t.Run("written to meanwhile", func(t *testing.T) {
		t.Parallel()
		s := newCopyStory(t)
		if !interrupt(t, s.of(s.clone), 20) {
			t.Fatal("not interrupted")
		}
		scan := s.of(s.clone)
		scan.Capture.Limit = func(context.Context, int) error { return os.Chtimes(s.clone, time.Time{}, time.Now()) }
		if _, _, err := scan.Check(t.Context()); !errors.Is(err, errWritten) {
			t.Errorf("%v", err)
		}
	})
}

// rewritten writes a file's own bytes to it and puts its time back.
func rewritten(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	copied(t, path, path)
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
}
