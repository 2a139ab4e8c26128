//go:build unix

package durable

import (
	"syscall"
	"testing"
)

// TestCloseUnlocksForChildrenToo closes a spool whose lock a child has inherited, as
// each has between fork and exec.
func TestCloseUnlocksForChildrenToo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{})
	inherited, err := syscall.Dup(int(s.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, SpoolOptions{})
}
