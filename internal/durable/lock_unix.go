//go:build unix

package durable

import (
	"errors"
	"os"
	"syscall"
)

// lock takes f for this process; the system lets go of it when the process ends.
func lock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return ErrLocked
	}
	return nil
}

// unlock lets go of f and closes it. Closing alone would not do: a child that was
// forked and has not yet called exec has f open too, and the lock is the file's.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
