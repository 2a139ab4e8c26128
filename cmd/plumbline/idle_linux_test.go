package main

import (
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Every thread reads with the idle class, those started later too.
func TestReadWhenIdle(t *testing.T) {
	defer setIOPriority(ioprioClassNone << ioprioClassShift)
	if err := readWhenIdle(); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	defer close(hold)
	for range 8 { // more threads
		ready := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ready)
			<-hold
		}()
		<-ready
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		priority, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
		if errno == 0 && priority>>ioprioClassShift != ioprioClassIdle {
			t.Errorf("thread %d of %d has class %d", tid, len(tasks), priority>>ioprioClassShift)
		}
	}
}
