package qemutcg

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
)

// Conn is a connection to the plugin. It is used by one goroutine, but for Look.
type Conn struct {
	conn  net.Conn
	r     *bufio.Reader
	hello Hello

	mu      sync.Mutex // guards writes and what follows
	asked   uint64
	answers map[uint64]chan trap.Live
	closed  bool
}

// Open connects to the plugin of the QEMU that serves qmpSocket.
func Open(ctx context.Context, qmpSocket string) (*Conn, error) {
	control, err := FindControl(ctx, qmpSocket)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, control)
}

// Dial connects to the plugin at its control socket.
func Dial(ctx context.Context, control string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", control)
	if err != nil {
		return nil, fmt.Errorf("connect to the trap plugin: %w", err)
	}
	c := &Conn{conn: conn, r: bufio.NewReaderSize(conn, 1<<18)}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := c.expect(FrameHello, &c.hello); err != nil {
		conn.Close()
		return nil, err
	}
	switch {
	case c.hello.Protocol != Protocol:
		err = fmt.Errorf("trap plugin speaks protocol %d, this program %d: use the plugin of this build", c.hello.Protocol, Protocol)
	case c.hello.Problem != "":
		err = fmt.Errorf("%w: trap plugin: %s", trap.ErrNotSupported, c.hello.Problem)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// Hello is what the plugin said of itself.
func (c *Conn) Hello() Hello { return c.hello }

// Bind puts the hooks of a kernel in place. They stay until Close. Enforce, if
// not nil, are rules whose level protect is enforced.
func (c *Conn) Bind(ctx context.Context, layout *linux.Layout, opts linux.Options, enforce *filewatch.Rules) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	if err := WriteFrame(c.conn, FrameBind, Bind{layout, opts, string(enforce.Text())}); err != nil {
		return fmt.Errorf("bind the trap plugin: %w", err)
	}
	return c.expect(FrameBound, nil)
}

// expect reads one JSON frame of type t into v.
func (c *Conn) expect(t FrameType, v any) error {
	got, payload, err := ReadFrame(c.r)
	if err != nil {
		return fmt.Errorf("read from the trap plugin: %w", err)
	}
	if got == FrameError {
		return failure(payload)
	}
	if got != t {
		return fmt.Errorf("%w: type %d instead of %d", ErrBadFrame, got, t)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	return nil
}

func failure(payload []byte) error {
	var f Failure
	if err := json.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	return fmt.Errorf("trap plugin: %s", f.Message)
}

// Records implements trap.Feed: it reads until ctx ends, the machine is reset
// (trap.ErrReset) or QEMU ends (io.EOF).
func (c *Conn) Records(ctx context.Context, emit func(*trap.Record) error) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	defer c.hangUp()
	for {
		t, payload, err := ReadFrame(c.r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the trap plugin left: %w", io.EOF)
		}
		if err != nil {
			return fmt.Errorf("read from the trap plugin: %w", err)
		}
		switch t {
		case FrameRecord:
			rec, err := trap.DecodeRecord(payload)
			if err != nil {
				return err
			}
			if err := emit(rec); err != nil {
				return err
			}
		case FrameLook:
			if err := c.answer(payload); err != nil {
				return err
			}
		case FrameReset:
			return trap.ErrReset
		case FrameError:
			return failure(payload)
		case FrameLost:
			var lost Lost
			if err := json.Unmarshal(payload, &lost); err != nil {
				return fmt.Errorf("%w: %w", ErrBadFrame, err)
			}
			if err := emit(&trap.Record{Sequence: lost.Through}); err != nil {
				return err
			}
		case FrameStatus: // counters are for people
		default:
			return fmt.Errorf("%w: unexpected type %d", ErrBadFrame, t)
		}
	}
}

// Status asks for the counters. Records that arrive meanwhile are discarded:
// it is for benchmarks and for a look before Records.
func (c *Conn) Status() (Status, error) {
	var s Status
	if err := c.write(FrameStatus, nil); err != nil {
		return s, err
	}
	for {
		t, payload, err := ReadFrame(c.r)
		switch {
		case err != nil:
			return s, fmt.Errorf("read from the trap plugin: %w", err)
		case t == FrameError:
			return s, failure(payload)
		case t == FrameStatus:
			return s, json.Unmarshal(payload, &s)
		}
	}
}

// ErrClosed is returned by Look when the records have ended.
var ErrClosed = errors.New("the watch has ended")

// Look asks what the guest's kernel has now of an object that a record of this
// connection named. Records must be running, in another goroutine.
func (c *Conn) Look(ctx context.Context, o *trap.Inode) (trap.Live, error) {
	answer := make(chan trap.Live, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return trap.Live{}, ErrClosed
	}
	if c.answers == nil {
		c.answers = make(map[uint64]chan trap.Live)
	}
	c.asked++
	id := c.asked
	c.answers[id] = answer
	c.mu.Unlock()
	payload, err := json.Marshal(Look{ID: id, Address: o.Address, Inode: o.Number, Generation: o.Generation})
	if err == nil {
		err = c.write(FrameLook, payload)
	}
	if err != nil {
		return trap.Live{}, err
	}
	select {
	case <-ctx.Done():
		return trap.Live{}, ctx.Err()
	case live, ok := <-answer:
		if !ok {
			return trap.Live{}, ErrClosed
		}
		return live, nil
	}
}

func (c *Conn) answer(payload []byte) error {
	var a Looked
	if err := json.Unmarshal(payload, &a); err != nil {
		return fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.answers[a.ID]; ok {
		delete(c.answers, a.ID)
		ch <- a.Live
	}
	return nil
}

// hangUp ends the questions that will not be answered.
func (c *Conn) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for id, ch := range c.answers {
		delete(c.answers, id)
		close(ch)
	}
}

func (c *Conn) write(t FrameType, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(AppendFrame(nil, t, payload)); err != nil {
		return fmt.Errorf("ask the trap plugin: %w", err)
	}
	return nil
}

// Close takes the hooks away, if no other client has them, and ends the
// connection.
func (c *Conn) Close() error { return c.conn.Close() }
