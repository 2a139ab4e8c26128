package volumetest

import (
	"os"
	"testing"
)

// Dir is a temporary directory for images, in memory where the system has such
// a place: the tools that make images wait for the disk after each step.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "volumetest-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
