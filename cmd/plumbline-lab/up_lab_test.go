//go:build lab

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

// build makes the program: up starts processes that outlive it, so it must be
// a real one.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "plumbline-lab")
	command := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

func TestUpStatusExecDown(t *testing.T) {
	program, dir := build(t), filepath.Join(t.TempDir(), "m")
	lab := func(arguments ...string) (string, error) {
		var stderr strings.Builder
		command := exec.CommandContext(t.Context(), program, append([]string{"--dir", dir}, arguments...)...)
		command.Stderr = &stderr
		out, err := command.Output()
		if stderr.Len() > 0 {
			t.Logf("%v: %s", arguments, stderr.String())
		}
		return string(out), err
	}
	t.Cleanup(func() { lab("down") })
	out, err := lab("up")
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]any)
	if err := json.Unmarshal([]byte(out), &keys); err != nil {
		t.Fatalf("up printed %q: %v", out, err)
	}
	for _, key := range []string{"qmp", "ram", "gdb", "serial", "disk", "vmlinuz", "modules", "pid", "bmc", "tpm"} {
		if keys[key] == nil {
			t.Errorf("up's JSON lacks %s", key)
		}
	}
	if out, err := lab("exec", "--", "ipmitool", "mc", "info"); err != nil || !strings.Contains(out, "IPMI Version              : 2.0") {
		t.Errorf("the BMC from inside: %v\n%s", err, out)
	}
	if out, err := lanplus(t, keys["bmc"], "chassis", "power", "status"); err != nil || !strings.Contains(out, "is on") {
		t.Errorf("the BMC from the LAN: %v\n%s", err, out)
	}
	_, err = lab("exec", "--", "sh", "-c", "exit 9")
	if code := err.(*exec.ExitError).ExitCode(); code != 9 {
		t.Errorf("exec's exit code %d, want the command's 9", code)
	}
	if out, err := lab("status"); err != nil || !strings.Contains(out, `"running": true`) {
		t.Errorf("status: %v\n%s", err, out)
	}
	if _, err := lab("down"); err != nil {
		t.Fatal(err)
	}
	nothingRuns(t, dir)
	if _, err := os.Stat(keys["ram"].(string)); err == nil {
		t.Error("the RAM file is still there")
	}
	if _, err := lab("down"); err != nil {
		t.Errorf("down twice: %v", err)
	}
}

// TestDownAfterAKilledUp: what an up that was killed had started, down ends.
func TestDownAfterAKilledUp(t *testing.T) {
	program, dir := build(t), filepath.Join(t.TempDir(), "m")
	up := exec.Command(program, "--dir", dir, "up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		m, err := lab.Open(dir)
		return err == nil && m.Running()
	}
	for deadline := time.Now().Add(40 * time.Minute); !running(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			up.Process.Kill()
			t.Fatal("up started no QEMU")
		}
	}
	if err := up.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	up.Wait()
	if out, err := exec.Command(program, "--dir", dir, "down").CombinedOutput(); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	nothingRuns(t, dir)
}

func lanplus(t *testing.T, bmc any, arguments ...string) (string, error) {
	t.Helper()
	login, ok := bmc.(map[string]any)
	if !ok {
		t.Fatalf("bmc is %v", bmc)
	}
	host, port, _ := strings.Cut(login["address"].(string), ":")
	command := exec.CommandContext(t.Context(), "ipmitool", append([]string{"-I", "lanplus", "-N", "20", "-C", "17",
		"-H", host, "-p", port, "-U", login["username"].(string), "-P", login["password"].(string)}, arguments...)...)
	out, err := command.CombinedOutput()
	return string(out), err
}

func nothingRuns(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(dir)) {
			t.Errorf("still running: %s %q", path, data)
		}
	}
}
