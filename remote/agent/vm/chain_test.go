package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// overlay makes one over an image, which reads as before, and has it read as
// the volume does after some changes.
func overlay(t *testing.T, c *volumetest.Changes, below, format, path string, before []byte) []byte {
	t.Helper()
	volumetest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", filepath.Base(below), "-F", format, path)
	c.Change(t)
	after, err := os.ReadFile(c.Image)
	if err != nil {
		t.Fatal(err)
	}
	m := disktest.Start(t, "qcow2:"+path)
	m.Become(t, 0, before, after)
	m.Quit(t)
	return after
}

// A copy with snapshots is reported as a full scan reports it, by the state of any
// image below it; that state holds as long as nothing in the template's own chain was
// written to.
func TestCopiesWithSnapshots(t *testing.T) {
	t.Parallel() // it mostly waits
	c := volumetest.NewChanges(t, "-t", "ext4")
	rules := parsed(t)
	dir := t.TempDir()
	images := []string{filepath.Join(dir, "base"), filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "active")}
	base := captureOf(t, c.Image, rules)
	content := copied(t, c.Image, images[0])
	content = overlay(t, c, images[0], "raw", images[1], content)
	first := captureOf(t, c.Image, rules)
	content = overlay(t, c, images[1], "qcow2", images[2], content)
	overlay(t, c, images[2], "qcow2", images[3], content)
	active := images[3]
	time.Sleep(settled + 100*time.Millisecond) // else the images' times say nothing

	for _, below := range []struct {
		template string
		base     *baseline.Baseline
	}{{images[0], base}, {images[1], first}} {
		want := fully(t, c.Image, below.base, rules)
		state := t.TempDir()
		of := func(images []string, template string) *Since {
			return &Since{Place: Place{Name: "copy", Images: images, Template: template, Backing: []string{dir}}, Dir: state, Baseline: below.base,
				Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
		}
		report, how := check(t, of([]string{active}, below.template))
		if d := cmp.Diff(want, told(t, report)); !how.Full || d != "" {
			t.Errorf("without the template's state: %+v\n%s", how, d)
		}
		check(t, of([]string{below.template}, ""))
		report, how = check(t, lookedAt(t, of([]string{active}, below.template), c.Image))
		if d := cmp.Diff(want, told(t, report)); how.Full || how.Looked == 0 || d != "" {
			t.Errorf("copy: %+v\n%s", how, d)
		}
		if report, how = check(t, of([]string{below.template}, "")); how.Full || how.Looked > 0 || len(report.Changes) > 0 {
			t.Errorf("the template itself: %+v, %d changes", how, len(report.Changes))
		}
		rewritten(t, images[0])
		report, how = check(t, of([]string{active}, below.template))
		if d := cmp.Diff(want, told(t, report)); !how.Full || !strings.Contains(how.Reason, "base was written to") || d != "" {
			t.Errorf("the lowest image was written to: %+v\n%s", how, d)
		}
		time.Sleep(settled + 100*time.Millisecond)
	}

	// The whole chain as one disk: nothing to look at while no image was written to,
	// everything once one was, or is not there any more.
	state := t.TempDir()
	s := &Since{Place: Place{Name: "copy", Images: []string{active}, Backing: []string{dir}}, Dir: state, Baseline: base,
		Rules: rules, Capture: baseline.CaptureOptions{Rules: rules}}
	want := fully(t, c.Image, base, rules)
	for round, reason := range []string{"no state", "", "second was written to", "not those of the last scan"} {
		switch round {
		case 2:
			rewritten(t, images[2])
		case 3:
			volumetest.Tool(t, "qemu-img", "rebase", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", active)
		}
		report, how := check(t, s)
		if d := cmp.Diff(want, told(t, report)); how.Full != (reason != "") || round > 0 && !strings.Contains(how.Reason, reason) || d != "" {
			t.Errorf("the chain, round %d: %+v\n%s", round, how, d)
		}
		time.Sleep(settled + 100*time.Millisecond)
	}
}
