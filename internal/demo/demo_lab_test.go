//go:build lab

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newStory begins a story on the binaries that "make build" made.
func newStory(t *testing.T) *story {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plumbline", "plumbline-lab", "plumbline-trap.so"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build first", err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "plumbline-story-")
	if err != nil {
		t.Fatal(err)
	}
	var said, log bytes.Buffer
	s := &story{tools: tools{bin: bin, dir: dir, log: &log}, out: &said, started: time.Now()}
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("story:\n%s\ncommands:\n%s", said.String(), log.String())
			logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			for _, path := range logs {
				data, _ := os.ReadFile(path)
				t.Logf("%s:\n%s", filepath.Base(path), data[max(0, len(data)-4096):])
			}
		}
		os.RemoveAll(dir)
	})
	return s
}

func (s *story) chapters(t *testing.T, chapters ...func(context.Context) error) {
	t.Helper()
	for _, chapter := range chapters {
		if err := chapter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStory is the demonstration itself, and on the same machine what happens
// when the verifier is killed in the middle of a stream of events.
func TestStory(t *testing.T) {
	s := newStory(t)
	if err := s.tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.rows {
		if r.want != r.seen {
			t.Errorf("%s: expected %s, saw %s", r.what, r.want, r.seen)
		}
	}
	if !t.Failed() {
		t.Run("verifier killed", func(t *testing.T) { testVerifierKilled(t, s) })
		t.Run("wrong BMC password", func(t *testing.T) { testWrongPassword(t, s) })
	}
}

// testVerifierKilled changes files while the verifier is killed and started
// again: every change must arrive once, in order.
func testVerifierKilled(t *testing.T, s *story) {
	const files = 60
	before, err := s.events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do mkdir /etc/plumbline-$i; rmdir /etc/plumbline-$i; i=$((i+1)); done`, files)
	changed := make(chan error, 1)
	go func() {
		_, err := s.tools.must(context.Background(), "plumbline-lab", "exec", "--dir", s.machineDir(), "--", "sh", "-c", script)
		changed <- err
	}()
	verifier := s.daemons[0]
	time.Sleep(300 * time.Millisecond) // somewhere in the middle; any moment must do
	verifier.cmd.Process.Kill()
	<-verifier.done
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	s.restartVerifier(t, "demo-bmc-password\n")

	arrived := func() (seen []string) {
		var list []fileEvent
		if err := s.tools.query(t.Context(), &list, "plumbline", "events", "-o", "json", "--limit", "1000"); err != nil {
			t.Fatal(err)
		}
		for i := len(list) - 1; i >= 0; i-- { // oldest first
			if !before[list[i].ID] && strings.HasPrefix(list[i].Path, "/etc/plumbline-") {
				seen = append(seen, list[i].Op+" "+list[i].Path)
			}
		}
		return seen
	}
	var want, got []string
	for i := range files {
		want = append(want, fmt.Sprintf("mkdir /etc/plumbline-%d", i), fmt.Sprintf("rmdir /etc/plumbline-%d", i))
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) {
		if got = arrived(); len(got) >= len(want) {
			break
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d events arrived, want %d in order:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}

// testWrongPassword: a BMC that refuses the login makes a failed scan with a
// reason, and changes nothing about the machine.
func testWrongPassword(t *testing.T, s *story) {
	s.daemons[0].stop()
	s.restartVerifier(t, "wrong\n")
	before, err := s.waitMachine(t.Context(), vmName, patience, func(m *fleetMachine) bool { return m.State == "trusted" })
	if err != nil || before.State != "trusted" {
		t.Fatalf("the machine is %s before the scan: %v, %v", before.State, before.Reasons, err)
	}
	var r scanReport
	if err := s.tools.query(t.Context(), &r, "plumbline", "scan", vmName, "-o", "json"); err != nil {
		t.Fatal(err)
	}
	if r.State != "failed" || !strings.Contains(r.Error, "refused user name or password") {
		t.Errorf("scan ended %q: %q", r.State, r.Error)
	}
	after, err := s.waitMachine(t.Context(), vmName, time.Second, func(m *fleetMachine) bool { return m.State == "untrusted" })
	if err != nil || after.State == "untrusted" {
		t.Errorf("a wrong password made the machine %s: %v, %v", after.State, after.Reasons, err)
	}
}

// restartVerifier starts the verifier again where it was, with the BMC password.
func (s *story) restartVerifier(t *testing.T, password string) {
	t.Helper()
	if err := writeFiles(s.verifierDir(), map[string]string{"bmc-password": password}); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(s.verifier.Address, "https://")
	d, err := s.tools.start(t.Context(), "plumbline", "verifier", "--listen", address,
		"--config", filepath.Join(s.verifierDir(), "verifier.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.daemons[0] = d
}

// TestOtherBootImageIsUntrusted boots a properly signed image that the policy
// does not list: the finding must name the file and the event.
func TestOtherBootImageIsUntrusted(t *testing.T) {
	s := newStory(t)
	s.uki = "other"
	s.chapters(t, s.bootMachine, s.startVerifier, s.startAgents)
	m, err := s.waitMachine(t.Context(), vmName, patience, func(m *fleetMachine) bool { return m.Boot.Outcome != "" })
	if err != nil {
		t.Fatal(err)
	}
	if m.Boot.Outcome != "fail" || m.State != "untrusted" {
		t.Errorf("boot %q, machine %s: %v", m.Boot.Outcome, m.State, m.Reasons)
	}
	var detail struct {
		Appraisal struct {
			Result struct {
				Checks []struct {
					Findings []struct {
						Event int    `json:"event"`
						PCR   int    `json:"pcr"`
						File  string `json:"file"`
					} `json:"findings"`
				} `json:"checks"`
			} `json:"result"`
		} `json:"appraisal"`
	}
	if err := s.tools.query(t.Context(), &detail, "plumbline", "hosts", vmName, "-o", "json"); err != nil {
		t.Fatal(err)
	}
	for _, c := range detail.Appraisal.Result.Checks {
		for _, f := range c.Findings {
			if f.PCR == 4 && f.Event > 0 && strings.Contains(strings.ToUpper(f.File), "BOOTX64.EFI") {
				return
			}
		}
	}
	t.Errorf("no finding names the boot image and its event: %+v", detail.Appraisal.Result)
}
