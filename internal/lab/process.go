package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Process identifies a process that outlives the one that started it. The
// start time tells it from a later process that was given the same number.
type Process struct {
	Name  string `json:"name"` // "qemu", "swtpm", "bmc", ...
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
}

// startProcess runs a command in a session of its own with its output in a
// file, so that it survives us and our terminal.
func startProcess(name, logPath string, argv ...string) (Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Process{}, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", name, err)
	}
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", name, err)
	}
	go cmd.Wait() // reaps it while we live; afterwards init does
	return Process{Name: name, PID: cmd.Process.Pid, Start: start}, nil
}

// alive says whether exactly this process still runs. A zombie does not.
func (p Process) alive() bool {
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// killTime is how long a process that was killed may take to be gone: QEMU gives
// the guest's RAM back first, and the machine may be busy.
const killTime = 2 * time.Minute

// end asks the process to end, and makes it after the grace time.
func (p Process) end(grace time.Duration) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, killTime}} {
		if !p.alive() {
			return nil
		}
		if err := syscall.Kill(p.PID, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end %s (%d): %w", p.Name, p.PID, err)
		}
		for deadline := time.Now().Add(step.wait); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if !p.alive() {
				return nil
			}
		}
	}
	return fmt.Errorf("%s (%d) does not end", p.Name, p.PID)
}

var errNoProcess = errors.New("no such process")

// startTime reads fields 3 and 22 of /proc/PID/stat (proc(5)). The command
// name before them may hold anything, so fields count from its last ')'.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, errNoProcess
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, errNoProcess
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
