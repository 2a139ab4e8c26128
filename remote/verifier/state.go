package verifier

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrLocked is returned for a state directory that another verifier uses.
var ErrLocked = errors.New("the state directory is in use")

// PrepareState makes the state directory if it is not there and keeps other
// verifiers out of it until release is called or the process ends.
func PrepareState(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	return func() { f.Close() }, nil
}
