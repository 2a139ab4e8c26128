package qmp

import (
	"context"
	"fmt"
)

// PeerPID returns the process that listens on the Unix socket at path, from
// SO_PEERCRED. The socket may be busy: nothing is sent.
func PeerPID(ctx context.Context, path string) (int, error) {
	conn, err := connect(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("connect to monitor: %w", err)
	}
	defer conn.Close()
	return peerPID(conn)
}
