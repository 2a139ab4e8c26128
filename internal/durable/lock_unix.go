//go:build unix

package durable

import (
	"os"
	"syscall"
)

// lock takes f for this process; the system lets go of it when f is closed or
// the process ends.
func lock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return ErrLocked
	}
	return nil
}
