package qmp

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, sockErr); err != nil {
		return 0, fmt.Errorf("peer credentials: %w", err)
	}
	return int(cred.Pid), nil
}

// rightsOf is the control message that passes a file's descriptor along.
func rightsOf(f *os.File) ([]byte, error) { return unix.UnixRights(int(f.Fd())), nil }
