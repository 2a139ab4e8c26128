package bin

import (
	"errors"
	"io"
	"testing"
)

func TestCursorReadsInOrder(t *testing.T) {
	c := Little([]byte{1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 'x'})
	if a, b, d, e := c.U8(), c.U16(), c.U32(), c.U64(); a != 1 || b != 2 || d != 3 || e != 4 {
		t.Fatalf("read %d %d %d %d", a, b, d, e)
	}
	if got := string(c.Bytes(1)); got != "x" || c.Err() != nil || c.Len() != 0 {
		t.Fatalf("tail %q, err %v, %d left", got, c.Err(), c.Len())
	}
}

func TestCursorErrorSticks(t *testing.T) {
	c := Big([]byte{1, 2, 3})
	if c.U16() != 0x0102 {
		t.Fatal("big-endian read")
	}
	if c.U32() != 0 || c.U8() != 0 {
		t.Fatal("a read after the end returned data")
	}
	if !errors.Is(c.Err(), io.ErrUnexpectedEOF) {
		t.Fatalf("error %v", c.Err())
	}
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, 2, 1)
	f.Fuzz(func(t *testing.T, data []byte, n, off int) {
		c := Little(data)
		c.Seek(off)
		c.Bytes(n)
		c.U64()
		if c.Err() == nil && c.Offset() > len(data) {
			t.Fatal("read past the end without an error")
		}
	})
}
