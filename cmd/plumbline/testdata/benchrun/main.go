// Command benchrun runs a program and says on file descriptor 3 what it took: wall
// and processor time in nanoseconds, peak resident memory in bytes, exit code.
//
// What Linux counts as the peak of a program that was exec'd begins with the peak
// of the process that exec'd it, which after vfork(2) is that of its parent
// (setmax_mm_hiwater_rss in exec_mmap, fs/exec.c of Linux 6.12). So the parent has
// to be small, which the program that runs the benchmarks is not.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	state := cmd.ProcessState
	if state == nil || !state.Exited() {
		fmt.Fprintf(os.Stderr, "benchrun: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	peak := state.SysUsage().(*syscall.Rusage).Maxrss << 10
	report := os.NewFile(3, "report")
	if _, err := fmt.Fprintln(report, took.Nanoseconds(), (state.UserTime() + state.SystemTime()).Nanoseconds(), peak, state.ExitCode()); err != nil {
		fmt.Fprintf(os.Stderr, "benchrun: %v\n", err)
		os.Exit(1)
	}
}
