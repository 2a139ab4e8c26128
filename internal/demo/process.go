package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// tools runs the built binaries as a user would.
type tools struct {
	bin string    // directory of the binaries
	dir string    // scratch directory of this run
	env []string  // added to the environment of each
	log io.Writer // what children say on stderr
}

// run executes one command and returns its standard output and the end of what it
// said on standard error. The exit code is not an error: verdicts have codes of their
// own.
func (t *tools) run(ctx context.Context, name string, args ...string) (out []byte, code int, said string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.bin, name), args...)
	cmd.Env = append(os.Environ(), t.env...)
	var stderr tail
	cmd.Stderr = io.MultiWriter(t.log, &stderr)
	out, err = cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	if err != nil {
		return out, -1, stderr.String(), fmt.Errorf("%s %v: %w", name, args, err)
	}
	return out, cmd.ProcessState.ExitCode(), stderr.String(), nil
}

// must is run for a command that has to succeed.
func (t *tools) must(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.bin, name), args...)
	cmd.Env = append(os.Environ(), t.env...)
	var stderr tail
	cmd.Stderr = io.MultiWriter(t.log, &stderr)
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %v: %w\n%s", name, args, err, stderr.String())
	}
	return out, nil
}

// query is must for a command whose output is one JSON value.
func (t *tools) query(ctx context.Context, into any, name string, args ...string) error {
	out, code, said, err := t.run(ctx, name, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("%s %v: exit %d, output is not JSON: %w\n%s", name, args, code, err, said)
	}
	return nil
}

// daemon is a child that runs until stop.
type daemon struct {
	name   string
	cmd    *exec.Cmd
	stderr tail
	ready  json.RawMessage
	done   chan struct{}
}

// start runs a daemon and waits for the line of JSON that it prints when it
// serves.
func (t *tools) start(ctx context.Context, name string, args ...string) (*daemon, error) {
	logFile, err := os.Create(filepath.Join(t.dir, name+"-"+args[0]+".log"))
	if err != nil {
		return nil, err
	}
	d := &daemon{name: args[0], done: make(chan struct{})}
	d.cmd = exec.Command(filepath.Join(t.bin, name), args...)
	d.cmd.Env = append(os.Environ(), t.env...)
	// A daemon must not get the terminal's interrupt before the story ends it.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	d.cmd.Stderr = io.MultiWriter(logFile, &d.stderr)
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(stdout)
	line := make(chan []byte, 1)
	go func() {
		first, _ := lines.ReadBytes('\n')
		line <- first
		io.Copy(logFile, lines)
		d.cmd.Wait()
		logFile.Close()
		close(d.done)
	}()
	select {
	case first := <-line:
		if !json.Valid(first) || len(first) == 0 {
			d.stop()
			return nil, fmt.Errorf("%s did not start: %s\n%s", d.name, first, d.stderr.String())
		}
		d.ready = first
		return d, nil
	case <-time.After(patience):
		d.stop()
		return nil, fmt.Errorf("%s did not start in time\n%s", d.name, d.stderr.String())
	case <-ctx.Done():
		d.stop()
		return nil, ctx.Err()
	}
}

// stop ends the daemon, at first politely.
func (d *daemon) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(15 * time.Second):
		d.cmd.Process.Kill()
		<-d.done
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - 4096; over > 0 {
		t.data = t.data[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
