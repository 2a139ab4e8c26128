//go:build lab

package oob

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

const selfVerifier = `listen = "127.0.0.1:0"
names = ["10.0.2.2"]
[enrolment]
approval = ["ca"]
ca = [%q]
[[host]]
name = "metal"
kernels = [%q]
modules = [%q]
scan_every = "24h"
scan_timeout = "30m"
bmc = { address = %q, username = "admin", password = "lab-admin", record = true }
`

const selfAgent = `name = "metal"
state = "/tmp/agent"
[verifier]
address = "https://10.0.2.2:%s"
fingerprint = %q
[self]
enabled = true
every = "500ms"
`

// selfScan has an agent on the machine poll its BMC's event log, where a verifier
// leaves a record over the LAN: the machine measures itself and has its own TPM
// quote what it saw.
func selfScan(t *testing.T, m *lab.Machine, bmc string) {
	dir := t.TempDir()
	program := filepath.Join(dir, "plumbline")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", program, "../../cmd/plumbline")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "verifier.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, selfVerifier, m.TPMCA, m.Vmlinuz, m.Modules, bmc), 0o600); err != nil {
		t.Fatal(err)
	}
	port, fingerprint := startVerifier(t, program, config, filepath.Join(dir, "state"))

	if err := m.Put(t.Context(), program, "/tmp/plumbline"); err != nil {
		t.Fatal(err)
	}
	m.ShellT(t, "cat > /tmp/agent.toml <<'END'\n"+fmt.Sprintf(selfAgent, port, fingerprint)+"END\n"+
		"modprobe msr; setsid /tmp/plumbline agent --config /tmp/agent.toml > /tmp/agent.log 2>&1 < /dev/null & echo $! > /tmp/agent.pid")
	t.Cleanup(func() { m.Shell(context.Background(), "kill $(cat /tmp/agent.pid)") })
	waitFor(t, "the agent to watch the event log and to enrol", func() bool {
		log := m.ShellT(t, "cat /tmp/agent.log")
		return strings.Contains(log, "event log is watched") && strings.Contains(log, "msg=enrolled")
	})

	scan := exec.CommandContext(t.Context(), program, "scan", "metal", "-o", "json")
	scan.Env = append(os.Environ(), "PLUMBLINE_STATE="+filepath.Join(dir, "state"))
	out, err := scan.Output()
	var exit *exec.ExitError
	if err != nil && !asExit(err, &exit) {
		t.Fatal(err)
	}
	var entry struct {
		State, Outcome, Error string
		Report                struct {
			Target struct{ Kind string }
			Checks []struct{ Name, Outcome, Reason string }
		}
	}
	if err := json.Unmarshal(out, &entry); err != nil || entry.State != "judged" || entry.Report.Target.Kind != "host" {
		t.Fatalf("%v: %s\n%s\nthe agent says:\n%s", err, out, exit.Stderr, m.ShellT(t, "cat /tmp/agent.log"))
	}
	for _, c := range entry.Report.Checks {
		want := "pass"
		if c.Name == "linux.registers" || c.Name == "linux.gdt" {
			want = "not-measured" // which no software can do
		}
		if c.Outcome != want {
			t.Errorf("%s: %s (%s), want %s", c.Name, c.Outcome, c.Reason, want)
		}
	}
	if entry.Outcome != "incomplete" || len(entry.Report.Checks) < 16 {
		t.Errorf("the scan came to %q with %d checks", entry.Outcome, len(entry.Report.Checks))
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*exit = e
	return ok
}

// startVerifier starts a verifier and returns its port and fingerprint.
func startVerifier(t *testing.T, program, config, state string) (port, fingerprint string) {
	t.Helper()
	verifier := exec.Command(program, "verifier", "--config", config, "--state", state)
	verifier.Stderr = os.Stderr
	stdout, err := verifier.StdoutPipe()
	if err == nil {
		err = verifier.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		verifier.Process.Signal(os.Interrupt)
		timer := time.AfterFunc(20*time.Second, func() { verifier.Process.Kill() })
		defer timer.Stop()
		verifier.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	var ready struct{ Address, Fingerprint string }
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	at, urlErr := url.Parse(ready.Address)
	if err != nil || urlErr != nil {
		t.Fatalf("verifier says %q: %v, %v", line, err, urlErr)
	}
	return at.Port(), ready.Fingerprint
}
