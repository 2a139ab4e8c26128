package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// ending is a context that ends when it was looked at so many times.
type ending struct {
	context.Context
	end  context.CancelFunc
	left atomic.Int64
}

func (e *ending) Err() error {
	if e.left.Add(-1) == 0 {
		e.end()
	}
	return e.Context.Err()
}

// An agent that is ended in the middle of a capture goes on with it when it is
// started again, whether its captures build on each other or not.
func TestCaptureGoesOnAfterARestart(t *testing.T) {
	changes := volumetest.NewChanges(t, "-t", "ext4")
	machine := disktest.Start(t, "raw:"+changes.Image)
	for name, files := range map[string]FilesConfig{
		"running":     {Resume: true},
		"incremental": {Resume: true, FullEvery: 3},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			state := t.TempDir()
			start := func() *target { // as after a restart: nothing is there but what is on disk
				a := &Agent{config: &Config{State: state}, log: slog.New(slog.NewTextHandler(&log, nil)), version: "test"}
				return &target{agent: a, config: TargetConfig{Name: "web", QMP: machine.QMP, Files: files}}
			}
			path := filepath.Join(t.TempDir(), "manifest")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx2 := &ending{Context: ctx, end: cancel}
			ctx2.left.Store(150)
			if _, err := start().capture(ctx2, path, nil); err == nil || ctx.Err() == nil {
				t.Fatalf("capture of an agent that ends: %v", err)
			}
			if _, err := start().capture(t.Context(), path, nil); err != nil {
				t.Fatal(err)
			}
			if text := log.String(); !strings.Contains(text, "msg=resumed") {
				t.Errorf("log:\n%s", text)
			}
			got := manifest(t, path)
			files.Resume, files.FullEvery = false, 0
			if _, err := start().capture(t.Context(), path, nil); err != nil {
				t.Fatal(err)
			}
			if want := manifest(t, path); got.Body.BLAKE3 != want.Body.BLAKE3 || got.Objects != want.Objects {
				t.Errorf("resumed: %d objects, %s; whole: %d objects, %s", got.Objects, got.Body.BLAKE3, want.Objects, want.Body.BLAKE3)
			}
		})
	}
}

// Captures of an agent with full_every build on each other, each n-th reads
// everything, and all ship what a whole capture ships.
func TestCapturesBuildOnEachOther(t *testing.T) {
	changes := volumetest.NewChanges(t, "-t", "ext4")
	live := filepath.Join(t.TempDir(), "live")
	before, err := os.ReadFile(changes.Image)
	if err == nil {
		err = os.WriteFile(live, before, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	machine := disktest.Start(t, "raw:"+live)
	state, path := t.TempDir(), filepath.Join(t.TempDir(), "manifest")
	capture := func(files FilesConfig) (baseline.Header, string) {
		t.Helper()
		var log bytes.Buffer
		a := &Agent{config: &Config{State: state}, log: slog.New(slog.NewTextHandler(&log, nil)), version: "test"}
		if _, err := (&target{agent: a, config: TargetConfig{Name: "web", QMP: machine.QMP, Files: files}}).capture(t.Context(), path, nil); err != nil {
			t.Fatal(err)
		}
		return manifest(t, path), log.String()
	}
	for round := range 7 {
		got, log := capture(FilesConfig{FullEvery: 3})
		want := "full=false"
		if round%3 == 0 {
			want = "full=true"
		}
		if !strings.Contains(log, want) {
			t.Errorf("capture %d: want %s in the log:\n%s", round, want, log)
		}
		if whole, _ := capture(FilesConfig{}); got.Body.BLAKE3 != whole.Body.BLAKE3 || got.Objects != whole.Objects {
			t.Errorf("capture %d: %d objects, %s; whole: %d objects, %s", round, got.Objects, got.Body.BLAKE3, whole.Objects, whole.Body.BLAKE3)
		}
		if round%2 == 0 {
			changes.Change(t)
			after, err := os.ReadFile(changes.Image)
			if err != nil {
				t.Fatal(err)
			}
			machine.Become(t, 0, before, after)
			before = after
		}
	}
}

// Overlays among an agent's disks are read over images in the directories that its
// configuration names, and refused without.
func TestCapturesOverlays(t *testing.T) {
	changes := volumetest.NewChanges(t, "-t", "ext4")
	dir := t.TempDir()
	overlay := filepath.Join(dir, "overlay")
	volumetest.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", changes.Image, "-F", "raw", overlay)
	path := filepath.Join(dir, "manifest")
	capture := func(files FilesConfig) error {
		a := &Agent{config: &Config{State: t.TempDir()}, log: slog.New(slog.DiscardHandler), version: "test"}
		_, err := (&target{agent: a, config: TargetConfig{Name: "web", Files: files}}).capture(t.Context(), path, nil)
		return err
	}
	if err := capture(FilesConfig{Disks: []string{changes.Image}}); err != nil {
		t.Fatal(err)
	}
	want := manifest(t, path)
	if err := capture(FilesConfig{Disks: []string{overlay}}); !errors.Is(err, disk.ErrOverlay) {
		t.Errorf("an overlay, unasked: %v", err)
	}
	backing := []string{filepath.Dir(changes.Image)}
	for name, files := range map[string]FilesConfig{
		"whole":       {Disks: []string{overlay}, Backing: backing},
		"incremental": {Disks: []string{overlay}, Backing: backing, FullEvery: 2},
	} {
		if err := capture(files); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := manifest(t, path); got.Body.BLAKE3 != want.Body.BLAKE3 {
			t.Errorf("%s: %d objects, want %d as of the image below", name, got.Objects, want.Objects)
		}
	}
}

func manifest(t *testing.T, path string) baseline.Header {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := baseline.OpenBytes(data, &baseline.OpenOptions{AnySigner: true})
	if err != nil {
		t.Fatal(err)
	}
	return b.Header
}
