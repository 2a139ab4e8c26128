// Package nbd is a reading client of the Network Block Device protocol: fixed
// newstyle negotiation, structured replies, block status.
//
// The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
// (2024-03). The server is not trusted: sizes and offsets it sends are checked
// before they are used.
package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"sync"
	"time"
)

var (
	// ErrProtocol marks an answer that the protocol does not allow.
	ErrProtocol = errors.New("NBD protocol error")
	// ErrNoContext: the server does not offer the metadata context.
	ErrNoContext = errors.New("metadata context is not offered")
)

// Allocation is the metadata context that says where an export has holes.
const Allocation = "base:allocation"

// Bits of [Extent.Flags] in the context [Allocation].
const (
	Hole = 1 << 0
	Zero = 1 << 1
)

// Dirty is the bit of [Extent.Flags] in a "qemu:dirty-bitmap:NAME" context.
const Dirty = 1 << 0

// Client reads one export. It is safe for concurrent use.
type Client struct {
	// Size is the export's size in bytes.
	Size int64

	conn     net.Conn
	least    int64 // the server's smallest block
	contexts map[string]uint32

	write sync.Mutex // held while writing; the receiver never waits for it

	mu     sync.Mutex // guards what follows
	calls  map[uint64]*call
	cookie uint64
	err    error
	done   chan struct{}

	holes extentCache
}

// call is one request under way.
type call struct {
	off     int64
	buf     []byte // of a read
	left    int    // bytes of buf that have not come
	context uint32 // of a block status
	extents []Extent
	err     error
	done    *sync.WaitGroup // counts the call until it is answered
}

// Dial connects to an export on a unix socket. contexts are metadata contexts
// that must be there; [Allocation] is used where the server has it.
func Dial(ctx context.Context, socket, export string, contexts ...string) (*Client, error) {
	return dial(ctx, socket, func(conn net.Conn) (*Client, error) { return NewClient(conn, export, contexts...) })
}

// DialFor is Dial without [Allocation], which costs the server its work whenever it
// is asked about another context.
func DialFor(ctx context.Context, socket, export string, contexts ...string) (*Client, error) {
	return dial(ctx, socket, func(conn net.Conn) (*Client, error) { return newClient(conn, export, contexts, nil) })
}

func dial(ctx context.Context, socket string, begin func(net.Conn) (*Client, error)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to NBD server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, err := begin(conn)
	if !stop() && err == nil {
		c.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
	}
	return c, err
}

// NewClient negotiates on an open connection, which it closes in the end.
func NewClient(conn net.Conn, export string, contexts ...string) (*Client, error) {
	return newClient(conn, export, contexts, []string{Allocation})
}

// newClient negotiates for contexts that must be there and others that may be.
func newClient(conn net.Conn, export string, contexts, more []string) (*Client, error) {
	c := &Client{conn: conn, least: 1, contexts: map[string]uint32{}, calls: map[uint64]*call{}, done: make(chan struct{})}
	if err := c.negotiate(export, contexts, more); err != nil {
		return nil, fmt.Errorf("NBD export %q: %w", export, err)
	}
	go c.receive()
	return c, nil
}

// Close ends the connection and waits for its reader.
func (c *Client) Close() error {
	c.mu.Lock()
	open := c.err == nil
	if open {
		c.err = os.ErrClosed
	}
	c.mu.Unlock()
	if open && c.write.TryLock() { // politeness; the close below is what counts
		c.conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.conn.Write(appendRequest(nil, cmdDisc, 0, 0, 0))
		c.write.Unlock()
	}
	err := c.conn.Close()
	<-c.done
	return err
}

// maxRead is the largest read every server takes.
const maxRead = 32 << 20

// ReadAt implements io.ReaderAt.
func (c *Client) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	want := len(b)
	if off >= c.Size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), c.Size-off)]
	for n := 0; n < len(b); {
		piece := b[n:min(n+maxRead, len(b))]
		if err := c.read(piece, off+int64(n)); err != nil {
			return n, fmt.Errorf("read %d bytes at %#x: %w", len(piece), off+int64(n), err)
		}
		n += len(piece)
	}
	if len(b) < want {
		return len(b), io.EOF
	}
	return len(b), nil
}

// read widens a request to the server's block size where it must.
func (c *Client) read(b []byte, off int64) error {
	start := off &^ (c.least - 1)
	end := min((off+int64(len(b))+c.least-1)&^(c.least-1), c.Size)
	if start == off && end == off+int64(len(b)) {
		return c.do(&call{off: off, buf: b, left: len(b)}, cmdRead, int64(len(b)))
	}
	wide := make([]byte, end-start)
	if err := c.do(&call{off: start, buf: wide, left: len(wide)}, cmdRead, int64(len(wide))); err != nil {
		return err
	}
	copy(b, wide[off-start:])
	return nil
}

// do sends a request and waits for its answer.
func (c *Client) do(op *call, command uint16, length int64) error {
	return c.together([]*call{op}, func(*call) (uint16, int64) { return command, length })
}

// together sends requests at once and waits for all answers.
func (c *Client) together(ops []*call, what func(*call) (command uint16, length int64)) error {
	var done sync.WaitGroup
	done.Add(len(ops))
	requests := make([]byte, 0, len(ops)*requestLen)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	for _, op := range ops {
		op.done = &done
		c.cookie++
		c.calls[c.cookie] = op
		command, length := what(op)
		requests = appendRequest(requests, command, c.cookie, op.off, uint32(length))
	}
	c.mu.Unlock()
	if err := c.send(requests); err != nil {
		c.conn.Close() // so that the receiver ends and answers what waits
		done.Wait()
		return err
	}
	done.Wait()
	for _, op := range ops {
		if op.err != nil {
			return op.err
		}
	}
	return nil
}

func (c *Client) send(requests []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.conn.Write(requests)
	return err
}

// requestLen is the length of a request in bytes.
const requestLen = 28

func appendRequest(b []byte, command uint16, cookie uint64, off int64, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, requestMagic)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, length)
}

// Extent is a run of an export with the flags of one metadata context.
type Extent struct {
	Off, Length int64
	Flags       uint32
}

// maxStatus is the longest range one block status asks about.
const maxStatus = 1 << 31

// Extents gives the runs of a metadata context from off on, up to length bytes;
// at least one, and often fewer than asked for.
func (c *Client) Extents(context string, off, length int64) ([]Extent, error) {
	id, ok := c.contexts[context]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoContext, context)
	}
	start := off &^ (c.least - 1)
	length = min(off+length-start, c.Size-start, maxStatus)
	if off < 0 || length <= 0 {
		return nil, io.EOF
	}
	length = min((length+c.least-1)&^(c.least-1), c.Size-start)
	op := &call{off: start, context: id}
	if err := c.do(op, cmdBlockStatus, length); err != nil {
		return nil, fmt.Errorf("block status at %#x: %w", start, err)
	}
	if len(op.extents) == 0 {
		return nil, fmt.Errorf("block status at %#x is empty: %w", start, ErrProtocol)
	}
	return op.extents, nil
}

// extentCache is the last answer about holes.
type extentCache struct {
	mu      sync.Mutex
	extents []Extent
}

// NextData gives the first offset at or after off that may hold data, io.EOF
// when the rest reads as zeros.
func (c *Client) NextData(off int64) (int64, error) {
	if _, ok := c.contexts[Allocation]; !ok {
		return off, nil
	}
	c.holes.mu.Lock()
	defer c.holes.mu.Unlock()
	for off < c.Size {
		known := c.holes.extents
		at := sort.Search(len(known), func(i int) bool { return known[i].Off+known[i].Length > off })
		if at == len(known) || known[at].Off > off {
			extents, err := c.Extents(Allocation, off, maxStatus)
			if err != nil {
				return 0, err
			}
			c.holes.extents = extents
			continue
		}
		if known[at].Flags&Zero == 0 {
			return off, nil
		}
		off = known[at].Off + known[at].Length
	}
	return 0, io.EOF
}
