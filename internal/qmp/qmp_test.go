package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// startQEMU runs a real QEMU without a guest and returns its monitor socket.
func startQEMU(t *testing.T) (path string, pid int) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "qmp.sock")
	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none",
		"-qmp", "unix:"+path+",server=on,wait=off")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for start := time.Now(); time.Since(start) < 10*time.Minute; time.Sleep(10 * time.Millisecond) {
		// The socket is there a moment before QEMU listens.
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return path, cmd.Process.Pid
		}
	}
	t.Fatal("QEMU made no monitor socket")
	return "", 0
}

func TestRealMonitor(t *testing.T) {
	ctx := t.Context()
	path, pid := startQEMU(t)
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.PID() != pid {
		t.Errorf("PID() = %d, QEMU is %d", c.PID(), pid)
	}
	if c.Version.Major < 5 {
		t.Errorf("version %+v", c.Version)
	}
	var status struct{ Status string }
	if err := c.Execute(ctx, "query-status", nil, &status); err != nil || status.Status == "" {
		t.Errorf("query-status: %+v, %v", status, err)
	}
	text, err := c.HMP(ctx, "info version")
	if want := fmt.Sprintf("%d.%d", c.Version.Major, c.Version.Minor); err != nil || !strings.HasPrefix(text, want) {
		t.Errorf("info version: %q, %v; want prefix %q", text, err, want)
	}
	var refusal *Error
	if err := c.Execute(ctx, "no-such-command", nil, nil); !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" {
		t.Errorf("unknown command: %v", err)
	}

	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := c.Execute(ctx, "query-version", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()

	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := c.ExecuteWithFile(ctx, "getfd", map[string]string{"fdname": "null"}, nil, file); err != nil {
		t.Errorf("getfd: %v", err)
	}
	if err := c.Execute(ctx, "closefd", map[string]string{"fdname": "null"}, nil); err != nil {
		t.Errorf("closefd of the passed file: %v", err)
	}

	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if second, err := Dial(short, path); !errors.Is(err, ErrBusy) {
		t.Errorf("second client: %v, %v; want ErrBusy", second, err)
	}
	if got, err := PeerPID(ctx, path); err != nil || got != pid {
		t.Errorf("PeerPID on a busy socket = %d, %v", got, err)
	}

	events := c.Subscribe()
	if err := c.Execute(ctx, "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	if _, err := events.Wait(ctx, "SHUTDOWN"); err != nil {
		t.Errorf("SHUTDOWN: %v", err)
	}
	if _, err := events.Wait(ctx, "SHUTDOWN"); !errors.Is(err, ErrClosed) {
		t.Errorf("after quit: %v", err)
	}
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("command after quit: %v", err)
	}
}

// servePeer runs script as the other end of a client.
func servePeer(t *testing.T, script func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(conn, bufio.NewReader(conn))
	}()
	return path
}

const greeting = `{"QMP":{"version":{"qemu":{"micro":1,"minor":2,"major":9},"package":"p"},"capabilities":[]}}` + "\r\n"

// answer reads one command and returns its id.
func answer(r *bufio.Reader) (id uint64) {
	line, _ := r.ReadBytes('\n')
	var request struct{ ID uint64 }
	json.Unmarshal(line, &request)
	return request.ID
}

func TestHostilePeers(t *testing.T) {
	tests := map[string]struct {
		script func(net.Conn, *bufio.Reader)
		dial   error // from Dial
		run    error // from a command
	}{
		"closes at once":       {func(net.Conn, *bufio.Reader) {}, ErrClosed, nil},
		"greets with an event": {func(c net.Conn, _ *bufio.Reader) { fmt.Fprintln(c, `{"event":"STOP"}`) }, ErrProtocol, nil},
		"not JSON":             {func(c net.Conn, _ *bufio.Reader) { fmt.Fprintln(c, "SSH-2.0") }, ErrProtocol, nil},
		"closes in handshake": {func(c net.Conn, r *bufio.Reader) {
			fmt.Fprint(c, greeting)
			answer(r)
		}, ErrClosed, nil},
		"garbage for an answer": {func(c net.Conn, r *bufio.Reader) {
			fmt.Fprint(c, greeting)
			fmt.Fprintf(c, `{"return":{},"id":%d}`+"\n", answer(r))
			answer(r)
			fmt.Fprintln(c, `{"return":`)
		}, nil, ErrProtocol},
		"answers another id": {func(c net.Conn, r *bufio.Reader) {
			fmt.Fprint(c, greeting)
			fmt.Fprintf(c, `{"return":{},"id":%d}`+"\n", answer(r))
			fmt.Fprintf(c, `{"return":{},"id":%d}`+"\n{}\n", answer(r)+7)
		}, nil, ErrClosed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(t.Context(), servePeer(t, test.script))
			if !errors.Is(err, test.dial) {
				t.Fatalf("Dial: %v, want %v", err, test.dial)
			}
			if err != nil {
				return
			}
			defer c.Close()
			if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, test.run) {
				t.Errorf("Execute: %v, want %v", err, test.run)
			}
		})
	}
}

func TestOverrunEndsSubscription(t *testing.T) {
	path := servePeer(t, func(c net.Conn, r *bufio.Reader) {
		fmt.Fprint(c, greeting)
		fmt.Fprintf(c, `{"return":{},"id":%d}`+"\n", answer(r))
		id := answer(r)
		for range subscriptionDepth + 1 {
			fmt.Fprintln(c, `{"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}`)
		}
		fmt.Fprintf(c, `{"return":{},"id":%d}`+"\n", id)
		answer(r)
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	events := c.Subscribe()
	if err := c.Execute(t.Context(), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Wait(t.Context(), "RESUME"); !errors.Is(err, ErrOverrun) {
		t.Errorf("Wait on an overrun subscription: %v, want ErrOverrun", err)
	}
}

func TestCancelledDialReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := servePeer(t, func(_ net.Conn, r *bufio.Reader) {
		cancel()
		answer(r)
	})
	if _, err := Dial(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want context.Canceled", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"return":{"status":"running"},"id":1}`))
	f.Add([]byte(`{"error":{"class":"GenericError","desc":"x"},"id":1}`))
	f.Add([]byte(`{"event":"STOP","data":{},"timestamp":{"seconds":1,"microseconds":2}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Client{pending: map[uint64]chan message{1: make(chan message, 1)}, subs: map[*Subscription]struct{}{}}
		c.Subscribe()
		var m message
		if json.Unmarshal(data, &m) == nil {
			c.dispatch(m)
			c.dispatch(m) // a repeated answer must not block the reader
			var result any
			_ = m.decode("x", &result)
		}
	})
}
