//go:build unix

package disk

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// lockMachine keeps two scans of one machine apart, in any processes of this
// host. The lock dies with its process; unlock takes its file away as well.
func lockMachine(ctx context.Context, socket string) (unlock func() error, err error) {
	path, err := lockPath(socket)
	if err != nil {
		return nil, err
	}
	for {
		f, err := tryLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock machine: %w", err)
		}
		if f != nil {
			return func() error { return unlockFile(f, path) }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another scan of its disks is running: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tryLock gives the locked file, nil when another has the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	has, err := lockOpen(f, path)
	if !has || err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockOpen locks an open file and says whether that is the lock. Only who has the
// lock removes the file, so whoever locked a file that is not there any more has
// locked nothing: others may have the one that is there now.
func lockOpen(f *os.File, path string) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(locked, there), err
}

// unlockFile lets go of the lock. Where someone else removed its file, the one that
// is there now is not ours.
func unlockFile(f *os.File, path string) error {
	has, err := lockOpen(f, path)
	if has && err == nil {
		err = os.Remove(path)
	}
	return errors.Join(err, f.Close())
}

// lockPath is the lock's file of the machine behind a socket, whatever name the
// socket is called by.
func lockPath(socket string) (string, error) {
	real, err := filepath.EvalSymlinks(socket)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return "", err
	}
	sum := blake3.Sum256([]byte(real))
	return filepath.Join(lockDir(), namePrefix+hex.EncodeToString(sum[:8])+".lock"), nil
}

// lockDir is /run/lock (FHS 3.0, 5.9), which services share with everybody even
// where they have a /tmp of their own (systemd.exec(5), PrivateTmp=), else the
// directory for temporary files.
func lockDir() string {
	const dir = "/run/lock"
	if unix.Access(dir, unix.W_OK|unix.X_OK) == nil {
		return dir
	}
	return os.TempDir()
}
