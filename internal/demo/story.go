package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names in the story.
const (
	hostName = "host1" // the machine that measures: this one, with a TPM of the lab
	vmName   = "vm1"   // the machine under test, itself a hypervisor
)

// patience is how long any part may take: all of it is seconds, but the machine may
// be slow and busy.
const patience = 15 * time.Minute

// story is one run of the demonstration.
type story struct {
	tools   tools
	out     io.Writer
	started time.Time

	machine  labMachine
	verifier verifierReady
	bmc      string    // LAN address of the machine's BMC
	uki      string    // boot image to start instead of the allowed one; empty for that
	daemons  []*daemon // in the order they were started
	console  string
	password string
	rows     []row
}

// labMachine is what "plumbline-lab up" prints, as far as the story needs it.
type labMachine struct {
	QMP       string `json:"qmp"`
	Vmlinuz   string `json:"vmlinuz"`
	Modules   string `json:"modules"`
	BMCSocket string `json:"bmc_socket"`
	HostTPM   string `json:"host_tpm"`
	TPMCA     string `json:"tpm_ca"`
	UKI       string `json:"uki"`
	Kernel    string `json:"kernel"`
	BootMS    int64  `json:"boot_ms"`
}

func (s *story) machineDir() string { return filepath.Join(s.tools.dir, "vm") }

// say tells people what is going on, with the time since the start.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

// detail adds a line to what was said last.
func (s *story) detail(format string, args ...any) {
	fmt.Fprintf(s.out, "         | %s\n", fmt.Sprintf(format, args...))
}

// tell is the whole story. It fails when a part does not work at all; verdicts
// other than the expected ones are rows of the table.
func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.bootMachine,
		s.startVerifier,
		s.startAgents,
		s.attestBoot,
		s.takeBaseline,
		s.scanClean,
		s.tamperCode,
		s.tamperData,
		s.tamperFile,
		s.trustedAgain,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) bootMachine(ctx context.Context) error {
	s.say("boot a machine: UEFI Secure Boot, TPM, BMC, IMA, KVM inside (the first run builds its image)")
	if err := os.MkdirAll(s.insideDir(), 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(s.tools.bin, "plumbline"), filepath.Join(s.insideDir(), "plumbline")); err != nil {
		return err
	}
	up := []string{"up", "--dir", s.machineDir(), "--no-bmc", "--files", s.insideDir()}
	if s.uki != "" {
		up = append(up, "--uki", s.uki)
	}
	if err := s.tools.query(ctx, &s.machine, "plumbline-lab", up...); err != nil {
		return err
	}
	s.detail("kernel %s, booted in %.1f s", s.machine.Kernel, float64(s.machine.BootMS)/1000)
	return nil
}

// attestBoot waits until the verifier trusts the boot of the machine.
func (s *story) attestBoot(ctx context.Context) error {
	began := time.Now()
	s.say("the agents prove their TPMs (credential activation) and quote their boots")
	m, err := s.waitMachine(ctx, vmName, patience, func(m *fleetMachine) bool { return m.Boot.Outcome != "" })
	if err != nil {
		return err
	}
	s.expect("boot attested", "pass", m.Boot.Outcome, time.Since(began))
	var detail struct {
		Appraisal struct {
			Boot []string `json:"boot"`
		} `json:"appraisal"`
	}
	if err := s.tools.query(ctx, &detail, "plumbline", "hosts", vmName, "-o", "json"); err != nil {
		return err
	}
	for _, line := range detail.Appraisal.Boot {
		s.detail("%s", line)
	}
	return nil
}

func (s *story) takeBaseline(ctx context.Context) error {
	began := time.Now()
	s.say("take a signed baseline of the machine's files from its disk, while it runs")
	m, err := s.waitMachine(ctx, vmName, patience, func(m *fleetMachine) bool { return m.Files.Baseline != "" && m.Files.Watched })
	if err != nil {
		return err
	}
	s.detail("%d objects; every change to a watched one is trapped below the guest from now on", m.Files.Objects)
	s.expect("files baselined", "yes", yes(m.Files.Objects > 1000), time.Since(began))
	return nil
}

func (s *story) scanClean(ctx context.Context) error {
	s.say("the verifier rings the machine's BMC: measure the hypervisor from outside")
	return s.scan(ctx, "scan of a clean machine", "pass", "")
}

func (s *story) tamperCode(ctx context.Context) error {
	return s.tamperMemory(ctx, "kvm-amd-text", "hypervisor code: a byte of kvm_amd", "modules.text")
}

func (s *story) tamperData(ctx context.Context) error {
	return s.tamperMemory(ctx, "kvm-ops", "hypervisor data: a pointer in kvm_x86_ops", "kvm.ops")
}

// tamperMemory changes memory behind the guest's back, expects the scan to find
// it by the check meant for it, and puts it back.
func (s *story) tamperMemory(ctx context.Context, name, what, check string) error {
	s.say("tamper with %s", what)
	if _, err := s.tools.must(ctx, "plumbline-lab", "tamper", name, "--dir", s.machineDir()); err != nil {
		return err
	}
	if err := s.scan(ctx, what, "fail", check); err != nil {
		return err
	}
	if _, err := s.tools.must(ctx, "plumbline-lab", "restore", name, "--dir", s.machineDir()); err != nil {
		return err
	}
	return s.scan(ctx, "restored: "+what, "pass", "")
}

// scanReport is what "plumbline scan -o json" prints, as far as it is needed.
type scanReport struct {
	State   string `json:"state"`
	Outcome string `json:"outcome"`
	Error   string `json:"error"`
	Report  struct {
		PauseMS   float64 `json:"pause_ms"`
		ElapsedMS float64 `json:"elapsed_ms"`
		Checks    []struct {
			Name     string `json:"name"`
			Outcome  string `json:"outcome"`
			Reason   string `json:"reason"`
			Findings []struct {
				Symbol      string `json:"symbol"`
				Observed    string `json:"observed"`
				Expected    string `json:"expected"`
				Explanation string `json:"explanation"`
			} `json:"findings"`
		} `json:"checks"`
	} `json:"report"`
}

// scan fires one scan and compares its outcome, and the failing check, with what
// is expected.
func (s *story) scan(ctx context.Context, what, want, wantCheck string) error {
	began := time.Now()
	var r scanReport
	if err := s.tools.query(ctx, &r, "plumbline", "scan", vmName, "-o", "json"); err != nil {
		return err
	}
	seen := r.Outcome
	if seen == "" {
		seen = r.State
	}
	var failed []string
	for _, c := range r.Report.Checks {
		switch {
		case c.Outcome == "fail":
			failed = append(failed, c.Name)
			for i, f := range c.Findings {
				if i == 3 {
					s.detail("... %d more findings of %s", len(c.Findings)-i, c.Name)
					break
				}
				s.detail("%s: %s: %s (expected %s, seen %s)", c.Name, f.Symbol, f.Explanation, clip(f.Expected), clip(f.Observed))
			}
		case c.Outcome != "pass":
			s.detail("%s not measured: %s", c.Name, c.Reason)
		}
	}
	if wantCheck != "" {
		want += " by " + wantCheck
		seen += " by " + strings.Join(failed, ", ")
	}
	if r.Error != "" {
		s.detail("%s", r.Error)
	}
	s.detail("%d checks, machine paused for %.1f ms, scan took %.0f ms", len(r.Report.Checks), r.Report.PauseMS, r.Report.ElapsedMS)
	s.expect(what, want, seen, time.Since(began))
	return nil
}

func clip(hex string) string {
	if len(hex) > 24 {
		return hex[:24] + "…"
	}
	return hex
}

// tamperFile changes a program in the guest, puts its times back, and expects
// the event at once and the verdict when the content has reached the disk.
func (s *story) tamperFile(ctx context.Context) error {
	const what = "guest file: content changed, times put back"
	s.say("tamper with a %s", what)
	before, err := s.events(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := s.tools.must(ctx, "plumbline-lab", "tamper", "file-content", "--dir", s.machineDir()); err != nil {
		return err
	}
	event, err := s.waitEvent(ctx, before, patience, func(e *fileEvent) bool { return e.Level == "verify" || e.Level == "protect" })
	if err != nil {
		return err
	}
	s.detail("%s %s by %s", event.Op, event.Path, event.Actor)
	s.expect("seen below the guest", "yes", yes(event.Path != ""), time.Since(began))
	judged, err := s.waitEvent(ctx, before, patience, func(e *fileEvent) bool {
		return e.Path == event.Path && strings.Contains(e.Detail, "content changed")
	})
	if err != nil {
		return err
	}
	s.detail("%s", judged.Detail)
	s.expect(what, "changed", judged.Verdict, time.Since(began))
	_, err = s.tools.must(ctx, "plumbline-lab", "restore", "file-content", "--dir", s.machineDir())
	return err
}

// trustedAgain ends the story where it began.
func (s *story) trustedAgain(ctx context.Context) error {
	began := time.Now()
	s.say("all is restored: a last scan, and the machine is trusted again")
	if err := s.scan(ctx, "scan of the restored machine", "pass", ""); err != nil {
		return err
	}
	m, err := s.waitMachine(ctx, vmName, patience, func(m *fleetMachine) bool { return m.State == "trusted" })
	if err != nil {
		return err
	}
	s.expect("state of the machine", "trusted", m.State, time.Since(began))
	return nil
}

// fleetMachine is one machine of "plumbline hosts -o json".
type fleetMachine struct {
	Name    string   `json:"name"`
	State   string   `json:"state"`
	Reasons []string `json:"reasons"`
	Boot    struct {
		Outcome string `json:"outcome"`
	} `json:"boot"`
	Files struct {
		Watched  bool   `json:"watched"`
		Baseline string `json:"baseline"`
		Objects  int64  `json:"objects"`
	} `json:"files"`
}

// waitMachine asks for the fleet until done says so. After the time it returns
// what it saw last, so that the table can show it.
func (s *story) waitMachine(ctx context.Context, name string, limit time.Duration, done func(*fleetMachine) bool) (*fleetMachine, error) {
	last := &fleetMachine{Name: name, State: "not enrolled"}
	for end := time.Now().Add(limit); time.Now().Before(end); {
		var fleet []fleetMachine
		if err := s.tools.query(ctx, &fleet, "plumbline", "hosts", "-o", "json"); err != nil {
			return nil, err
		}
		for i := range fleet {
			if fleet[i].Name != name {
				continue
			}
			if last = &fleet[i]; done(last) {
				return last, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	s.detail("gave up after %s: %s is %s: %s", limit, name, last.State, strings.Join(last.Reasons, "; "))
	return last, nil
}

// fileEvent is one event of "plumbline events -o json".
type fileEvent struct {
	ID      string          `json:"id"`
	Op      string          `json:"op"`
	Path    string          `json:"path"`
	Actor   string          `json:"actor"`
	Level   string          `json:"level"`
	Verdict string          `json:"verdict"`
	Detail  string          `json:"detail"`
	Changes json.RawMessage `json:"changes"`
}

func (s *story) events(ctx context.Context) (map[string]bool, error) {
	var list []fileEvent
	if err := s.tools.query(ctx, &list, "plumbline", "events", "-o", "json"); err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(list))
	for _, e := range list {
		seen[e.ID] = true
	}
	return seen, nil
}

// waitEvent waits for an event that was not there before and that is the wanted
// one; a zero event after the time.
func (s *story) waitEvent(ctx context.Context, before map[string]bool, limit time.Duration, want func(*fileEvent) bool) (*fileEvent, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		var list []fileEvent
		if err := s.tools.query(ctx, &list, "plumbline", "events", "-o", "json"); err != nil {
			return nil, err
		}
		for i := range list {
			if !before[list[i].ID] && want(&list[i]) {
				return &list[i], nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	s.detail("no such event within %s", limit)
	return &fileEvent{}, nil
}

// end takes down what the story started, in reverse.
func (s *story) end() {
	for i := len(s.daemons) - 1; i >= 0; i-- {
		s.daemons[i].stop()
	}
	if _, err := os.Stat(s.machineDir()); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.tools.must(ctx, "plumbline-lab", "down", "--dir", s.machineDir()); err != nil {
			fmt.Fprintf(os.Stderr, "demo: take the machine down: %v\n", err)
		}
	}
}
