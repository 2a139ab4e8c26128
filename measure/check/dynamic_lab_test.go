//go:build lab

package check_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// bpfload starts the program that attaches BPF programs of each kind, and stops
// it; the shared machine has it in /opt/plumbline.
const (
	bpfload = `set -e
		mkfifo /run/lab-hold
		sleep 86400 <&- > /run/lab-hold 2>&1 &
		echo $! > /run/lab-hold-pid
		/opt/plumbline/bpfload < /run/lab-hold > /run/lab-bpf 2>&1 &
		for try in $(seq 6000); do
			if grep -q ^attached /run/lab-bpf; then break; fi
			sleep 0.1
		done
		cat /run/lab-bpf`
	bpfunload = `kill $(cat /run/lab-hold-pid)
		for try in $(seq 3000); do pidof bpfload > /run/lab-pid || break; sleep 0.1; done
		rm /run/lab-hold /run/lab-hold-pid /run/lab-bpf /run/lab-pid`
)

// TestAcceptsBPF attaches what monitoring software attaches: programs in front of
// functions and behind them, on probes, tracepoints, the network. All of it is
// seen, and none of it a finding.
func TestAcceptsBPF(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	attached := m.ShellT(t, lab.OnOneCPU(bpfload))
	defer m.ShellT(t, lab.OnOneCPU(bpfunload))
	for line := range strings.Lines(attached) {
		if line = strings.TrimSpace(line); line != "attached" && !strings.HasSuffix(line, ": ok") {
			t.Errorf("not attached: %s", line)
		}
	}
	r, _ := s.scan(t)
	if r.Outcome != measure.Pass {
		t.Fatalf("BPF programs are a finding:\n%s", text(r))
	}
	if c := find(t, r, "linux.dynamic"); !strings.Contains(c.Reason, "BPF's code") {
		t.Errorf("the programs were not seen: %s", c.Reason)
	}
	told := false
	for _, note := range find(t, r, "linux.text").Notes {
		told = told || strings.HasPrefix(note.Explanation, "traced by BPF: ") && note.Symbol == "vfs_write"
	}
	if !told {
		t.Errorf("no note says that BPF traces vfs_write:\n%s", text(r))
	}
}
