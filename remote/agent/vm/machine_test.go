//go:build lab || bench

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// plugin builds the trap plugin.
func plugin(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plumbline-trap.so")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", path, "../../../filewatch/trap/qemutcg/plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the trap plugin: %v\n%s", err, out)
	}
	return path
}

// fileops builds the program for what no Debian tool does, for the guest.
func fileops(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "fileops"), "./testdata/fileops")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fileops: %v\n%s", err, out)
	}
	return dir
}

// watched is a machine whose file events are collected.
type watched struct {
	*lab.Machine
	t      testing.TB
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	grown  *sync.Cond
	events []*filewatch.Event
	alerts []filewatch.Alert
	marks  int
}

// patience bounds every wait; nothing is measured by it.
const patience = 15 * time.Minute

// profiles spares each watch of one machine the decoding of its kernel.
var profiles kernel.Cache

// watch starts a watch and returns when its hooks are in place.
func watch(t testing.TB, m *lab.Machine, rules *filewatch.Rules, change ...func(*Watcher)) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{Machine: m, t: t, cancel: cancel, done: make(chan error, 1)}
	w.grown = sync.NewCond(&w.mu)
	bound := make(chan struct{}, 8)
	watcher := &Watcher{
		Target: "lab", QMP: m.QMP, Profiles: &profiles, Rules: rules,
		Bound: func() { bound <- struct{}{} },
		Alert: func(a filewatch.Alert) { w.add(func() { w.alerts = append(w.alerts, a) }) },
	}
	for _, f := range change {
		f(watcher)
	}
	go func() {
		w.done <- watcher.Events(ctx, func(e *filewatch.Event) error {
			w.add(func() { w.events = append(w.events, e) })
			return nil
		})
		w.add(func() {})
	}()
	t.Cleanup(w.stop)
	select {
	case <-bound:
	case err := <-w.done:
		w.done = nil // no one else will come
		t.Fatalf("watch: %v", err)
	case <-time.After(patience):
		t.Fatal("the hooks are not in place in time")
	}
	return w
}

func (w *watched) add(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	w.grown.Broadcast()
}

func (w *watched) stop() {
	w.cancel()
	if w.done == nil {
		return
	}
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		w.t.Errorf("watch ended with %v", err)
	}
	w.done = nil
}

// wait returns when have says so of the events.
func (w *watched) wait(have func() bool) {
	w.t.Helper()
	late := time.AfterFunc(patience, func() { w.add(func() { w.marks = -1 }) })
	defer late.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !have() {
		if w.marks < 0 {
			w.t.Fatalf("no such event in time; there are %d, alerts %v", len(w.events), w.alerts)
		}
		w.grown.Wait()
	}
}

// run runs a script in the guest and returns what it printed and the events on
// objects below /t that it caused.
func (w *watched) run(script string) (string, []*filewatch.Event) {
	w.t.Helper()
	w.mu.Lock()
	from := len(w.events)
	w.marks++
	mark := fmt.Sprintf("/root/mark%d", w.marks)
	w.mu.Unlock()
	out := w.ShellT(w.t, script+"\nmkdir "+mark+"; rmdir "+mark+"\n")
	var at int
	w.wait(func() bool {
		for at = from; at < len(w.events); at++ {
			if e := w.events[at]; e.Op == filewatch.OpRmdir && e.Path == mark {
				return true
			}
		}
		return false
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	var below []*filewatch.Event
	for _, e := range w.events[from:at] {
		if e.Follows != 0 {
			continue // of an earlier script
		}
		if strings.HasPrefix(e.Path, "/t/") || strings.HasPrefix(e.NewPath, "/t/") {
			below = append(below, e)
		}
	}
	return out, below
}
