//go:build !linux

package qmp

import (
	"errors"
	"net"
	"os"
)

// Monitors of machines are on the host that runs them, which runs Linux.
func peerPID(*net.UnixConn) (int, error) {
	return 0, errors.ErrUnsupported
}

func rightsOf(*os.File) ([]byte, error) { return nil, errors.ErrUnsupported }
