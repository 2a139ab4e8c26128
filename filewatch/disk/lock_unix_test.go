//go:build unix

package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// socketOf is a name to lock.
func socketOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func locked(t *testing.T, socket string) (unlock func() error) {
	t.Helper()
	unlock, err := lockMachine(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

// A lock leaves no file behind, whatever was left by a process that was killed.
func TestLockLeavesNothingBehind(t *testing.T) {
	socket := socketOf(t)
	path, err := lockPath(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unlock := locked(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockMachine(ctx, socket); !errors.Is(err, context.Canceled) {
		t.Errorf("locked twice: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", path, err)
	}
}

// Who waits for a lock and gets that of a file which is gone meanwhile does not
// have it: another may have the file that is there now.
func TestLockOfARemovedFileIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := tryLock(path)
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	waits, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	// The file is removed and made anew between the opening and the locking of one
	// who waits.
	if err := errors.Join(os.Remove(path), first.Close()); err != nil {
		t.Fatal(err)
	}
	second, err := tryLock(path)
	if err != nil || second == nil {
		t.Fatal(second, err)
	}
	defer second.Close()
	if has, err := lockOpen(waits, path); has || err != nil {
		t.Errorf("two have the lock: %v", err)
	}
}

// However many want it, one has it.
func TestLockIsOfOne(t *testing.T) {
	socket := socketOf(t)
	var held atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				unlock, err := lockMachine(t.Context(), socket)
				if err != nil {
					t.Error(err)
					return
				}
				if n := held.Add(1); n != 1 {
					t.Errorf("%d have it", n)
				}
				time.Sleep(time.Millisecond)
				held.Add(-1)
				if err := unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
