package tpm

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// DefaultDevice is the kernel's resource-managed TPM.
const DefaultDevice = "/dev/tpmrm0"

// ErrNoTPM means that nothing at the given path is a TPM.
var ErrNoTPM = errors.New("no TPM")

// TPM is an open TPM 2.0. Its methods may be called from several goroutines;
// they take turns.
type TPM struct {
	mu     sync.Mutex
	conn   transport.TPMCloser
	socket bool // a software TPM, not the running machine's
}

// Open opens the TPM at path: a character device such as /dev/tpmrm0, or the
// unix data socket of a software TPM (swtpm socket --server type=unixio,...,
// started without --terminate: each command is a connection of its own). An
// empty path is [DefaultDevice]. Errors wrap [ErrNoTPM] or are the system's.
func Open(path string) (*TPM, error) {
	if path == "" {
		path = DefaultDevice
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	var conn transport.TPMCloser
	switch {
	case info.Mode()&os.ModeSocket != 0:
		conn, err = openSocket(path)
	case info.Mode()&os.ModeDevice != 0:
		conn, err = openDevice(path)
	default:
		err = fmt.Errorf("%w: %s is neither a device nor a socket", ErrNoTPM, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	t := &TPM{conn: conn, socket: info.Mode()&os.ModeSocket != 0}
	if _, err := t.ActiveBanks(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %s does not answer as one: %w", ErrNoTPM, path, err)
	}
	return t, nil
}

// Close releases the device.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.Close()
}

// flush unloads a transient object or session. Its error is of no use to
// anyone: the resource manager unloads whatever is left when the device closes.
func (t *TPM) flush(h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.conn)
}
