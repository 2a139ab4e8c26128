package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
)

// Put copies a file into the guest and makes it executable. It travels over the
// guest's network card: the guest agent would take minutes for a program.
func (m *Machine) Put(ctx context.Context, from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, from) })}
	go server.Serve(listener)
	defer server.Close()
	// QEMU's user network shows the host's loopback as 10.0.2.2.
	port := listener.Addr().(*net.TCPAddr).Port
	_, err = m.Shell(ctx, fmt.Sprintf("busybox wget -q -O '%[1]s' http://10.0.2.2:%[2]d/ && chmod +x '%[1]s'", to, port))
	return err
}
