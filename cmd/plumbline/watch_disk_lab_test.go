//go:build lab

package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// diskWatch is "plumbline watch" running on a machine.
type diskWatch struct {
	t   *testing.T
	cmd *exec.Cmd

	mu     sync.Mutex
	events []*filewatch.Event
	alerts []filewatch.Alert
	said   bytes.Buffer
	read   sync.WaitGroup
}

// watchPatience bounds every wait; nothing is measured by it.
const watchPatience = 15 * time.Minute

func startDiskWatch(t *testing.T, program string, arguments ...string) *diskWatch {
	t.Helper()
	w := &diskWatch{t: t, cmd: exec.Command(program, append([]string{"watch"}, arguments...)...)}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill() })
	w.read.Go(func() { w.lines(bufio.NewScanner(stdout), w.line) })
	w.read.Go(func() { w.lines(bufio.NewScanner(stderr), func(line []byte) { fmt.Fprintf(&w.said, "%s\n", line) }) })
	w.wait("the watch", func() bool { return strings.Contains(w.said.String(), "plumbline: watching ") })
	return w
}

func (w *diskWatch) lines(s *bufio.Scanner, fn func([]byte)) {
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		w.mu.Lock()
		fn(s.Bytes())
		w.mu.Unlock()
	}
}

func (w *diskWatch) line(line []byte) {
	var a filewatch.Alert
	if err := json.Unmarshal(line, &a); err == nil && a.Alert != "" {
		w.alerts = append(w.alerts, a)
		return
	}
	e := new(filewatch.Event)
	if err := json.Unmarshal(line, e); err != nil {
		w.t.Errorf("%v: %s", err, line)
		return
	}
	w.events = append(w.events, e)
}

func (w *diskWatch) wait(what string, have func() bool) {
	w.t.Helper()
	for end := time.Now().Add(watchPatience); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		ok := have()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s does not come; there is %+v, alerts %+v\n%s", what, w.events, w.alerts, &w.said)
		}
	}
}

// event waits for a further event of an operation on a path.
func (w *diskWatch) event(from int, op filewatch.Op, path string) *filewatch.Event {
	w.t.Helper()
	var found *filewatch.Event
	w.wait(op.String()+" "+path, func() bool {
		i := slices.IndexFunc(w.events[from:], func(e *filewatch.Event) bool { return e.Op == op && e.Path == path && e.Status == filewatch.Found })
		if i >= 0 {
			found = w.events[from+i]
		}
		return i >= 0
	})
	return found
}

const diskWatchRules = `
[[rule]]
path = "/t/**"
level = "verify"
check = ["content", "mode", "owner", "xattrs"]
[[rule]]
path = "/**"
level = "ignore"
`

// A machine whose QEMU has no plugin is watched by its disk: each operation comes with
// what the disk has afterwards, and the verdict of a baseline; a bitmap that someone
// takes away is told and nothing missed; an interrupt leaves nothing behind.
func TestWatchedOnTheDiskPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	program, rules, base := filepath.Join(dir, "plumbline"), filepath.Join(dir, "rules.toml"), filepath.Join(dir, "baseline")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.WriteFile(rules, []byte(diskWatchRules), 0o600); err != nil {
		t.Fatal(err)
	}
	m := lab.StartT(t, lab.Options{})
	m.ShellT(t, `mkdir /t; for f in kept gone late; do echo "content of $f" >/t/$f; done; sync`)
	if out, err := exec.Command(program, "baseline", "create", "--vm", m.QMP, "--rules", rules, "-f", base).CombinedOutput(); err != nil {
		t.Fatalf("baseline create: %v\n%s", err, out)
	}
	w := startDiskWatch(t, program, "--vm", m.QMP, "--every", "200ms", "-f", base)
	if !strings.Contains(w.said.String(), "without the trap plugin") {
		t.Errorf("it says %s", &w.said)
	}
	for _, c := range []struct {
		script, path string
		op           filewatch.Op
		verdict      filewatch.Judgement
		content      string // "" for none
	}{
		{"echo hi >/t/new", "/t/new", filewatch.OpCreate, filewatch.Fail, "hi\n"},
		{"echo more >>/t/kept", "/t/kept", filewatch.OpWrite, filewatch.Fail, "content of kept\nmore\n"},
		{"echo 'content of kept' >/t/kept.new; mv /t/kept.new /t/kept", "/t/kept", filewatch.OpCreate, filewatch.Pass, "content of kept\n"},
		{"mv /t/new /t/newer", "/t/new", filewatch.OpRename, filewatch.Fail, "hi\n"},
		{"chmod 4711 /t/kept", "/t/kept", filewatch.OpChmod, filewatch.Fail, "content of kept\n"},
		{"chmod 644 /t/kept", "/t/kept", filewatch.OpChmod, filewatch.Pass, "content of kept\n"},
		{"setfattr -n user.x -v y /t/kept", "/t/kept", filewatch.OpSetXattr, filewatch.Fail, "content of kept\n"},
		{"chown 7 /t/newer", "/t/newer", filewatch.OpChown, filewatch.Fail, "hi\n"},
		{"rm /t/gone", "/t/gone", filewatch.OpUnlink, filewatch.Fail, ""},
		{"touch -r /t/late /root/stamp; printf C | dd of=/t/late conv=notrunc status=none; touch -r /root/stamp /t/late", "/t/late", filewatch.OpWrite, filewatch.Fail, "Content of late\n"},
	} {
		w.mu.Lock()
		from := len(w.events)
		w.mu.Unlock()
		m.ShellT(t, c.script+"\nsync")
		e := w.event(from, c.op, c.path)
		if e.Actor.Unknown == "" || e.Source != "tap" || e.Since.IsZero() || e.Time.Before(e.Since) || e.Level != filewatch.Verify {
			t.Errorf("%s: %+v", c.script, e)
		}
		if e.Verdict.Outcome != c.verdict {
			t.Errorf("%s: verdict %+v, want %s", c.script, e.Verdict, c.verdict)
		}
		sum := blake3.Sum256([]byte(c.content))
		if c.content != "" && (len(e.Hashes) != 1 || hex.EncodeToString(e.Hashes[0].Value) != hex.EncodeToString(sum[:])) {
			t.Errorf("%s: hashes %x, want %x", c.script, e.Hashes, sum)
		}
	}
	removed := removeBitmaps(t, m.QMP)
	if removed == 0 {
		t.Error("there was no bitmap")
	}
	m.ShellT(t, "rm /t/newer; sync")
	w.event(0, filewatch.OpUnlink, "/t/newer")
	w.wait("the alert", func() bool {
		return slices.ContainsFunc(w.alerts, func(a filewatch.Alert) bool { return a.Alert == filewatch.AlertGap && a.Lost == 1 })
	})
	if err := w.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	w.read.Wait()
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v\n%s", err, &w.said)
	}
	if n := removeBitmaps(t, m.QMP); n != 0 {
		t.Errorf("%d bitmaps are left", n)
	}
}

// removeBitmaps removes all of ours, says how many there were, and holds that there
// are no nodes of ours but those of a look that is under way.
func removeBitmaps(t *testing.T, socket string) (n int) {
	t.Helper()
	client, err := qmp.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var nodes []struct {
		Node    string `json:"node-name"`
		Bitmaps []struct {
			Name string `json:"name"`
		} `json:"dirty-bitmaps"`
	}
	if err := client.Execute(t.Context(), "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, node := range nodes {
		if strings.HasPrefix(node.Node, "plumbline-") {
			ours++
		}
		for _, b := range node.Bitmaps {
			if !strings.HasPrefix(b.Name, "plumbline-") {
				continue
			}
			n++
			// One that is busy belongs to a look that has been begun, and goes on.
			client.Execute(t.Context(), "block-dirty-bitmap-remove", map[string]any{"node": node.Node, "name": b.Name}, nil)
		}
	}
	if n == 0 && ours > 0 {
		t.Errorf("%d nodes are left", ours)
	}
	return n
}
