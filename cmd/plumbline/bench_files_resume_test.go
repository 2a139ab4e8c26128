//go:build bench

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestBenchFilesResume measures what --resume costs a scan that nothing interrupts,
// and what is gained by it: one is ended once it kept half of what it will, then
// gone on with.
func TestBenchFilesResume(t *testing.T) {
	_, image := benchTree(t)
	dir := benchScratch(t)
	b := &resumeBench{T: t, plumbline: benchProgram(t, dir), state: filepath.Join(dir, "state")}
	rules := filepath.Join(dir, "rules.toml")
	must(t, os.WriteFile(rules, []byte(benchRules), 0o644))
	args := []string{"--disk", image, "-f", filepath.Join(dir, "b")}
	time.Sleep(2100 * time.Millisecond) // of an image written to just now nothing is certain
	timed(t, 0, b.plumbline, append([]string{"baseline", "create", "--rules", rules}, args...)...)
	args = append([]string{"baseline", "check"}, args...)
	resume := append(args, "--resume", "--state", b.state)
	var most int64
	b.run(resume, func(kept int64) bool { most = max(most, kept); return false })

	plain := &contender{run: func() measured { return timed(t, 0, b.plumbline, args...) }}
	kept := &contender{run: func() measured { return timed(t, 0, b.plumbline, resume...) }}
	var first measured
	halves := 0
	half := &contender{run: func() measured {
		m, ended := b.run(resume, func(kept int64) bool { return kept >= most/2 })
		if ended {
			halves++
		}
		first = m
		return timed(t, 0, b.plumbline, resume...)
	}}
	var both time.Duration // of CPU, of the round with the best second half
	for range 5 {
		best := half.best
		inTurn(1, func() {}, plain, kept, half)
		if half.best != best {
			both = first.cpu + half.best.cpu
		}
	}
	if halves < 3 {
		t.Errorf("%d of 5 scans could be ended half way", halves)
	}
	fmt.Printf("%d KiB of progress for %d files\n", most>>10, benchFiles)
	line("files.resume", kept.best.wall.Seconds()/plain.best.wall.Seconds(), "x vs without")
	line("files.resume.cpu", kept.best.cpu.Seconds()/plain.best.cpu.Seconds(), "x vs without")
	line("files.resume.half", half.best.wall.Seconds()/plain.best.wall.Seconds(), "x vs full")
	line("files.resume.half.cpu", half.best.cpu.Seconds()/plain.best.cpu.Seconds(), "x vs full")
	line("files.resume.both.cpu", both.Seconds()/plain.best.cpu.Seconds(), "x vs full")
}

type resumeBench struct {
	*testing.T
	plumbline, state string
}

// run runs a scan and ends it once end says so of how many bytes it has kept.
func (b *resumeBench) run(args []string, end func(kept int64) bool) (m measured, ended bool) {
	b.Helper()
	cmd := exec.Command(b.plumbline, args...)
	began := time.Now()
	must(b.T, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			code := cmd.ProcessState.ExitCode()
			if code != 0 && !(ended && code == exitIO) {
				b.Fatalf("scan with --resume: %v, exit code %d", err, code)
			}
			m = measured{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
			return m, code == exitIO
		case <-time.After(time.Millisecond):
			if !ended && end(b.kept()) {
				ended = true
				cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	}
}

// kept is how large the progress is.
func (b *resumeBench) kept() int64 {
	files, err := filepath.Glob(b.state + "/*.progress")
	must(b.T, err)
	if len(files) == 0 {
		return 0
	}
	info, err := os.Stat(files[0])
	if err != nil {
		return 0 // the scan came to its end
	}
	return info.Size()
}
