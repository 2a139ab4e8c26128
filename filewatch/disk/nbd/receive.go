package nbd

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
)

// Structured reply chunk types.
const (
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 | 1
	chunkErrorOffset = 1<<15 | 2

	chunkDone = 1 << 0
)

// maxStatusChunk bounds one block status answer: 8 bytes an extent.
const maxStatusChunk = 16 << 20

// receive hands answers to their calls until the connection ends.
func (c *Client) receive() {
	defer close(c.done)
	r := bufio.NewReaderSize(c.conn, 64<<10)
	err := c.answers(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fmt.Errorf("NBD connection: %w", err)
	}
	for cookie, op := range c.calls {
		op.err = c.err
		op.done.Done()
		delete(c.calls, cookie)
	}
}

func (c *Client) answers(r *bufio.Reader) error {
	for {
		magic, err := u32(r)
		if err != nil {
			return err
		}
		switch magic {
		case simpleMagic:
			err = c.simple(r)
		case chunkMagic:
			err = c.chunk(r)
		default:
			err = fmt.Errorf("reply magic %#x: %w", magic, ErrProtocol)
		}
		if err != nil {
			return err
		}
	}
}

// simple is an answer without structure: an error, or all data at once.
func (c *Client) simple(r *bufio.Reader) error {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	op, cookie, err := c.find(binary.BigEndian.Uint64(head[4:]))
	if err != nil {
		return err
	}
	if code := binary.BigEndian.Uint32(head[:]); code != 0 {
		op.err = syscall.Errno(code)
	} else if op.buf == nil {
		return fmt.Errorf("unstructured answer to block status: %w", ErrProtocol)
	} else if _, err := io.ReadFull(r, op.buf); err != nil {
		return err
	} else {
		op.left = 0
	}
	c.finish(cookie, op)
	return nil
}

// chunk is one part of a structured answer.
func (c *Client) chunk(r *bufio.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	flags, kind := binary.BigEndian.Uint16(head[:]), binary.BigEndian.Uint16(head[2:])
	size := binary.BigEndian.Uint32(head[12:])
	op, cookie, err := c.find(binary.BigEndian.Uint64(head[4:]))
	if err != nil {
		return err
	}
	if err := op.take(r, kind, int64(size)); err != nil {
		return fmt.Errorf("chunk of type %d, %d bytes: %w", kind, size, err)
	}
	if flags&chunkDone != 0 {
		c.finish(cookie, op)
	}
	return nil
}

// take reads one chunk's payload.
func (op *call) take(r *bufio.Reader, kind uint16, size int64) error {
	switch {
	case kind == chunkNone && size == 0:
		return nil
	case kind == chunkOffsetData && size > 8:
		part, err := op.part(r, size-8)
		if err != nil {
			return err
		}
		_, err = io.ReadFull(r, part)
		return err
	case kind == chunkOffsetHole && size == 12:
		off, err := u64(r)
		if err != nil {
			return err
		}
		length, err := u32(r)
		if err != nil {
			return err
		}
		part, err := op.at(off, int64(length))
		clear(part)
		return err
	case kind == chunkBlockStatus && size >= 12 && size%8 == 4 && size <= maxStatusChunk:
		return op.status(r, size)
	case kind&(1<<15) != 0 && size >= 6 && size <= maxOptionReply:
		payload := make([]byte, size)
		if _, err := io.ReadFull(r, payload); err != nil {
			return err
		}
		op.err = syscall.Errno(binary.BigEndian.Uint32(payload))
		return nil
	}
	return ErrProtocol
}

func (op *call) part(r *bufio.Reader, length int64) ([]byte, error) {
	off, err := u64(r)
	if err != nil {
		return nil, err
	}
	return op.at(off, length)
}

// at is the piece of the call's buffer that off and length of the export mean.
func (op *call) at(off uint64, length int64) ([]byte, error) {
	start := int64(off) - op.off
	if start < 0 || length < 0 || start > int64(len(op.buf)) || length > int64(len(op.buf))-start {
		return nil, ErrProtocol
	}
	op.left -= int(length)
	return op.buf[start : start+length], nil
}

func (op *call) status(r *bufio.Reader, size int64) error {
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	if op.buf != nil {
		return ErrProtocol
	}
	if binary.BigEndian.Uint32(payload) != op.context {
		return nil // another context's answer to the same question
	}
	off := op.off
	for p := payload[4:]; len(p) > 0; p = p[8:] {
		length := int64(binary.BigEndian.Uint32(p))
		if length == 0 {
			return ErrProtocol
		}
		op.extents = append(op.extents, Extent{off, length, binary.BigEndian.Uint32(p[4:])})
		off += length
	}
	return nil
}

// find looks up the call that an answer is for; only the receiver changes a
// call until it is done.
func (c *Client) find(cookie uint64) (*call, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.calls[cookie]
	if op == nil {
		return nil, 0, fmt.Errorf("answer to nothing (%#x): %w", cookie, ErrProtocol)
	}
	return op, cookie, nil
}

func (c *Client) finish(cookie uint64, op *call) {
	if op.err == nil && op.left != 0 {
		op.err = fmt.Errorf("%d bytes of the answer are missing: %w", op.left, ErrProtocol)
	}
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	op.done.Done()
}

func u32(r io.Reader) (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

func u64(r io.Reader) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}
