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
)

// lockMachine keeps two scans of one machine apart, in any processes of this
// host. The lock dies with its process.
func lockMachine(ctx context.Context, socket string) (unlock func() error, err error) {
	real, err := filepath.EvalSymlinks(socket)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, err
	}
	sum := blake3.Sum256([]byte(real))
	path := filepath.Join(os.TempDir(), namePrefix+hex.EncodeToString(sum[:8])+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock machine: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock machine: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another scan of its disks is running: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
