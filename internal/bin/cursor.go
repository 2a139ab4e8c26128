// Package bin reads binary structures out of hostile bytes.
//
// A [Cursor] never panics and never reads past its slice: the first short read
// sticks, later reads return zero values, and [Cursor.Err] reports it once at
// the end. That keeps parsers free of an error test per field.
package bin

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Cursor is a bounded reader over a byte slice with a sticky error.
type Cursor struct {
	data  []byte
	off   int
	order binary.ByteOrder
	err   error
}

// Little returns a little-endian cursor over data.
func Little(data []byte) *Cursor { return &Cursor{data: data, order: binary.LittleEndian} }

// Big returns a big-endian cursor over data.
func Big(data []byte) *Cursor { return &Cursor{data: data, order: binary.BigEndian} }

// Bytes returns the next n bytes without copying them, or nil past the end.
func (c *Cursor) Bytes(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.data)-c.off {
		c.err = fmt.Errorf("read %d bytes at offset %#x of %#x: %w", n, c.off, len(c.data), io.ErrUnexpectedEOF)
		return nil
	}
	b := c.data[c.off : c.off+n : c.off+n]
	c.off += n
	return b
}

// U8 reads one byte.
func (c *Cursor) U8() uint8 {
	if b := c.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads a 16-bit integer.
func (c *Cursor) U16() uint16 {
	if b := c.Bytes(2); b != nil {
		return c.order.Uint16(b)
	}
	return 0
}

// U32 reads a 32-bit integer.
func (c *Cursor) U32() uint32 {
	if b := c.Bytes(4); b != nil {
		return c.order.Uint32(b)
	}
	return 0
}

// U64 reads a 64-bit integer.
func (c *Cursor) U64() uint64 {
	if b := c.Bytes(8); b != nil {
		return c.order.Uint64(b)
	}
	return 0
}

// Skip moves n bytes forward.
func (c *Cursor) Skip(n int) { c.Bytes(n) }

// Count reads the length of a list (4 bytes) whose elements have size bytes each:
// 0 and an error when they cannot be there.
func (c *Cursor) Count(size int) int {
	n := int(c.U32())
	if c.Err() == nil && n > c.Len()/size {
		c.Skip(c.Len() + 1) // makes the error
		return 0
	}
	return n
}

// Seek moves to an absolute offset; one past the end is allowed.
func (c *Cursor) Seek(off int) {
	if c.err != nil {
		return
	}
	if off < 0 || off > len(c.data) {
		c.err = fmt.Errorf("seek to offset %#x of %#x: %w", off, len(c.data), io.ErrUnexpectedEOF)
		return
	}
	c.off = off
}

// Offset is the position of the next read.
func (c *Cursor) Offset() int { return c.off }

// Len is the number of bytes left.
func (c *Cursor) Len() int { return len(c.data) - c.off }

// Err is the first error met, nil if every read was whole.
func (c *Cursor) Err() error { return c.err }
