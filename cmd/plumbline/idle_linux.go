package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// I/O priorities (include/uapi/linux/ioprio.h, Linux 6.12): the class in the
// bits from 13 on.
const (
	ioprioWhoProcess = 1 // one thread, by its number
	ioprioClassShift = 13
	ioprioClassNone  = 0
	ioprioClassIdle  = 3
)

// readWhenIdle asks the kernel to serve this program's disk reads only while
// nobody else wants the disk. The schedulers bfq and mq-deadline do; without a
// scheduler the wish has no effect. It needs no privileges.
func readWhenIdle() error { return setIOPriority(ioprioClassIdle << ioprioClassShift) }

// setIOPriority sets the priority of all threads. The kernel keeps one for each,
// which a new thread inherits from the one that starts it, so it is repeated
// until it has met no new one.
func setIOPriority(priority int) error {
	done := map[string]bool{}
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("set I/O priority: %w", err)
		}
		for _, task := range tasks {
			if done[task.Name()] {
				continue
			}
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return fmt.Errorf("set I/O priority: %w", err)
			}
			_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(priority))
			if errno != 0 && errno != unix.ESRCH { // it has ended meanwhile
				return fmt.Errorf("set I/O priority: %w", errno)
			}
			done[task.Name()], again = true, true
		}
	}
	return nil
}
