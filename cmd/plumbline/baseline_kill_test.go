//go:build matrix

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// killStory is a running machine that changes, and scans of it that are killed.
type killStory struct {
	*keyStory
	random *rand.Rand
	// usual is how long a scan takes that nobody kills.
	usual  time.Duration
	killed int
}

// scan makes a scan; where there is something to do meanwhile, it is killed at a
// random moment.
func (s *killStory) scan(meanwhile func(), args ...string) []byte {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: append([]string{"plumbline", "baseline"}, args...), Dir: s.dir}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	began := time.Now()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if meanwhile != nil {
		kill := time.AfterFunc(time.Duration(s.random.Int64N(int64(s.usual))), func() { cmd.Process.Kill() })
		meanwhile()
		defer kill.Stop()
	}
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case meanwhile != nil && status.Signaled():
		s.killed++
	case !status.Exited() || status.ExitStatus() > 7:
		s.t.Fatalf("%v: %v\n%s", args, cmd.ProcessState, &complaint)
	default:
		s.usual = (s.usual + time.Since(began)) / 2
	}
	return out.Bytes()
}

// killReport is what is compared of a check.
type killReport struct {
	Changes []json.RawMessage
	Scan    *struct {
		Full   bool
		Reason string
	}
}

func (s *killStory) report(args ...string) (r killReport) {
	s.t.Helper()
	out := s.scan(nil, append(args, "-o", "json")...)
	if err := json.Unmarshal(out, &r); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return r
}

// bitmaps counts QEMU's dirty bitmaps.
func (s *killStory) bitmaps(m *disktest.Machine) (n int) {
	var nodes []struct {
		Bitmaps []struct{} `json:"dirty-bitmaps"`
	}
	m.Execute(s.t, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	for _, node := range nodes {
		n += len(node.Bitmaps)
	}
	return n
}

// Incremental scans of a machine that is written to, before they are made and while
// they are, and that are killed at random moments, one after the other: the next one
// that is left alone finds every change that a scan of everything finds.
//
// It is not among the tests of each change: QEMU 7.2 may send what it had for a client
// that was killed to the next one, or close its connection. Then a scan fails, aloud
// (18), about one in 200, and with it this test.
func TestKilledIncrementalScansLoseNothing(t *testing.T) {
	c := volumetest.NewChanges(t, "-t", "ext4")
	s := &killStory{keyStory: newKeyStory(t), random: c.Random}
	s.command("cp", c.Image, s.at("live"))
	s.command("cp", c.Image, s.at("before"))
	m := disktest.Start(t, "raw:"+s.at("live"))
	check := []string{"check", "--vm", m.QMP, "-f", "vm.baseline", "--incremental"}
	began := time.Now()
	s.scan(nil, "create", "--vm", m.QMP, "-f", "vm.baseline", "--incremental")
	s.usual = time.Since(began)
	full := 0
	for round := range 12 {
		c.Change(t)
		pieces := disktest.Difference(t, s.at("before"), c.Image)
		for range 1 + round%3 {
			n := s.random.IntN(len(pieces) + 1)
			before := max(0, n-s.random.IntN(4)) // few meanwhile: QEMU's monitor serves one at a time
			m.Apply(t, 0, pieces[:before])
			s.scan(func() { m.Apply(t, 0, pieces[before:n]) }, check...)
			pieces = pieces[n:]
		}
		m.Apply(t, 0, pieces)
		s.command("cp", c.Image, s.at("before"))
		got := s.report(check...)
		want := s.report("check", "--disk", c.Image, "-f", "vm.baseline")
		if d := cmp.Diff(want.Changes, got.Changes); d != "" {
			t.Fatalf("round %d: full scan against the one after those that were killed (%+v):\n%s", round, got.Scan, d)
		}
		if got.Scan == nil || got.Scan.Full != (got.Scan.Reason != "") {
			t.Errorf("round %d: %+v", round, got.Scan)
		}
		if got.Scan != nil && got.Scan.Full {
			full++
			t.Logf("round %d: full: %s", round, got.Scan.Reason)
		}
		if n := s.bitmaps(m); n != 1 {
			t.Errorf("round %d: %d bitmaps are left, want one", round, n)
		}
	}
	t.Logf("%d scans were killed, %d of the next ones were full", s.killed, full)
	if s.killed == 0 {
		t.Error("no scan was killed before its end")
	}
}
