package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// connect connects to a monitor's socket. While QEMU has a client it accepts nobody,
// and it lets few wait; for whoever comes then, also in the moment in which QEMU
// notices that its client was killed, connecting fails at once (unix(7), EAGAIN). That
// is tried again as long as a greeting would be waited for.
func connect(ctx context.Context, path string) (*net.UnixConn, error) {
	const pause = 20 * time.Millisecond
	var dialer net.Dialer
	var refused error
	for until := time.Now().Add(greetingTimeout); ; {
		conn, err := dialer.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return conn.(*net.UnixConn), nil
		case errors.Is(err, syscall.EAGAIN):
			refused = err
		case refused == nil || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded):
			return nil, err
		}
		if ctx.Err() != nil || time.Now().After(until) {
			return nil, fmt.Errorf("%w: %w", ErrBusy, refused)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
