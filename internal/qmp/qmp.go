// Package qmp speaks the QEMU Machine Protocol over a Unix socket.
//
// A [Client] is safe for concurrent use: commands are matched to their answers
// by id, events go to every [Subscription]. QEMU serves one client per monitor
// socket; a second one connects and then waits for a greeting until the first
// has left, which [Dial] reports as [ErrBusy]. [PeerPID] asks nothing of the
// monitor and works on a busy socket too.
//
// Source: QEMU, docs/interop/qmp-spec.rst.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

var (
	// ErrBusy: the socket took the connection and sent no greeting, because
	// another client holds the monitor; or it took none, because others wait.
	ErrBusy = errors.New("monitor is held by another client")
	// ErrClosed: the connection ended, by Close or because QEMU ended.
	ErrClosed = errors.New("monitor connection closed")
	// ErrProtocol: the peer sent something that is not QMP.
	ErrProtocol = errors.New("not the QEMU machine protocol")
)

// maxMessage bounds one message of the peer, in bytes. The largest answers
// met (human monitor dumps of page tables) are a few MiB.
const maxMessage = 32 << 20

// greetingTimeout is how long Dial waits for a greeting when the context sets
// no earlier deadline. A monitor whose main loop is busy answers within a
// second or two even under TCG.
const greetingTimeout = 15 * time.Second

// An Error is QEMU's refusal of one command.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // "GenericError", "CommandNotFound", "DeviceNotFound", ...
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Command, e.Class, e.Desc) }

// Version is what the greeting says about the peer.
type Version struct {
	Major   int    `json:"major"`
	Minor   int    `json:"minor"`
	Micro   int    `json:"micro"`
	Package string `json:"-"` // the distributor's package version, may be empty
}

// Client is one monitor connection.
type Client struct {
	Version Version

	conn *net.UnixConn
	pid  int

	write sync.Mutex // serializes messages on conn

	mu      sync.Mutex // guards the rest
	nextID  uint64
	pending map[uint64]chan message
	subs    map[*Subscription]struct{}
	err     error // why the reader ended
	done    chan struct{}
}

// message is any message of the peer; which fields are set tells what it is.
type message struct {
	Greeting *struct {
		Version struct {
			QEMU    Version `json:"qemu"`
			Package string  `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	ID        *uint64         `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// Dial connects to the monitor at path and leaves it in command mode. The
// context bounds connecting and the handshake, not the life of the client.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := connect(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w", err)
	}
	client, err := newClient(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("monitor %s: %w", path, err)
	}
	return client, nil
}

func newClient(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn:    conn,
		pending: make(map[uint64]chan message),
		subs:    make(map[*Subscription]struct{}),
		done:    make(chan struct{}),
	}
	var err error
	if c.pid, err = peerPID(conn); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 64<<10), maxMessage)
	if err := c.greet(ctx, lines); err != nil {
		return nil, err
	}
	go c.read(lines)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet reads the greeting within the context and greetingTimeout.
func (c *Client) greet(ctx context.Context, lines *bufio.Scanner) error {
	deadline := time.Now().Add(greetingTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if !lines.Scan() {
		switch err := lines.Err(); {
		case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ErrBusy
		case err != nil:
			return fmt.Errorf("read greeting: %w", err)
		}
		return ErrClosed
	}
	var m message
	if err := json.Unmarshal(lines.Bytes(), &m); err != nil || m.Greeting == nil {
		return fmt.Errorf("greeting: %w", ErrProtocol)
	}
	c.Version = m.Greeting.Version.QEMU
	c.Version.Package = m.Greeting.Version.Package
	return c.conn.SetReadDeadline(time.Time{})
}

// read dispatches messages until the connection ends, then fails what waits.
func (c *Client) read(lines *bufio.Scanner) {
	err := ErrClosed
	for lines.Scan() {
		var m message
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			err = fmt.Errorf("message: %w", ErrProtocol)
			break
		}
		c.dispatch(m)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		err = fmt.Errorf("message over %d bytes: %w", maxMessage, ErrProtocol)
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.done)
	for sub := range c.subs {
		sub.end(err)
	}
	c.subs = nil
}

func (c *Client) dispatch(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != "" {
		event := Event{
			Name: m.Event,
			Data: m.Data,
			Time: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000),
		}
		for sub := range c.subs {
			if !sub.deliver(event) {
				delete(c.subs, sub)
			}
		}
		return
	}
	// An answer without a known id belongs to a command whose caller has
	// given up: nobody waits for it.
	if m.ID == nil {
		return
	}
	if waiter, ok := c.pending[*m.ID]; ok {
		delete(c.pending, *m.ID)
		waiter <- m
	}
}

// PID is the process at the other end of the socket.
func (c *Client) PID() int { return c.pid }

// Close ends the connection. Commands that wait fail with [ErrClosed].
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}
