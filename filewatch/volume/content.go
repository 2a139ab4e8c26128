package volume

import (
	"errors"
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// MaxHole is the most zero bytes that a content may read as in a row. A sparse
// file can claim exabytes; hashing them would never end.
const MaxHole = 64 << 30

// ErrTooSparse says that a content was not read because of [MaxHole].
var ErrTooSparse = errors.New("hole too large to read")

// Content reads one object's bytes from its volume, without any cache of the
// system in between. It is an io.Reader, io.WriterTo and io.ReaderAt; the
// first two share a position.
type Content struct {
	dev    io.ReaderAt
	size   int64
	where  filewatch.Content
	off    int64
	window *window
}

// Size is the number of bytes that the content has.
func (c *Content) Size() int64 { return c.size }

// Where is where the content is.
func (c *Content) Where() filewatch.Content { return c.where }

// Read implements [io.Reader].
func (c *Content) Read(b []byte) (int, error) {
	n, err := c.ReadAt(b, c.off)
	c.off += int64(n)
	return n, err
}

// ReadAt implements [io.ReaderAt].
func (c *Content) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		run, err := c.run(off+int64(n), int64(len(b)-n))
		if err != nil {
			return n, err
		}
		part := b[n : n+int(run.Length)]
		switch {
		case c.where.Inline != nil:
			clear(part[copy(part, tail(c.where.Inline, run.Logical)):])
		case run.Physical < 0:
			clear(part)
		default:
			if _, err := c.dev.ReadAt(part, run.Physical); err != nil {
				return n, fmt.Errorf("read content at %#x of the volume: %w", run.Physical, short(err))
			}
		}
		n += int(run.Length)
	}
	return n, nil
}

// WriteTo implements [io.WriterTo]: the rest of the content in large pieces.
func (c *Content) WriteTo(w io.Writer) (int64, error) {
	if c.window == nil {
		c.window = newWindow(c.dev, make([]byte, max(1, min(c.size, windowSize))))
	}
	start := c.off
	for c.off < c.size {
		b, err := c.piece()
		if err != nil {
			return c.off - start, err
		}
		n, err := w.Write(b)
		c.off += int64(n)
		if err != nil {
			return c.off - start, err
		}
	}
	return c.off - start, nil
}

// Lasting gives the content piece by piece, read into buf, and io.EOF after the
// last. A piece stays as it is until the next; unlike c, what is given can be used
// as long as the volume's disk is open.
func (c *Content) Lasting(buf []byte) (next func() ([]byte, error)) {
	own := &Content{dev: c.dev, size: c.size, where: c.where, window: newWindow(c.dev, buf)}
	return func() ([]byte, error) {
		b, err := own.piece()
		own.off += int64(len(b))
		return b, err
	}
}

// piece is what comes next, as much of it as can be had at once.
func (c *Content) piece() ([]byte, error) {
	run, err := c.run(c.off, c.size-c.off)
	switch {
	case err != nil:
		return nil, err
	case c.where.Inline != nil:
		b := make([]byte, c.size-c.off)
		_, err := c.ReadAt(b, c.off)
		return b, err
	case run.Physical < 0 && run.Length > MaxHole:
		return nil, fmt.Errorf("%d bytes at %d: %w", run.Length, c.off, ErrTooSparse)
	case run.Physical < 0:
		return zeros[:min(run.Length, int64(len(zeros)))], nil
	}
	b, err := c.window.at(run.Physical, run.Length)
	if err != nil {
		return nil, fmt.Errorf("read content at %#x of the volume: %w", run.Physical, err)
	}
	return b, nil
}

// run is the longest run at off, no longer than most and not past the end.
// Physical is -1 for a hole.
func (c *Content) run(off, most int64) (filewatch.Extent, error) {
	if off >= c.size {
		return filewatch.Extent{}, io.EOF
	}
	most = min(most, c.size-off)
	hole := filewatch.Extent{Logical: off, Physical: -1, Length: most}
	if c.where.Inline != nil {
		return hole, nil
	}
	i := after(c.where.Extents, off)
	if i > 0 {
		e := c.where.Extents[i-1]
		if in := off - e.Logical; in < e.Length {
			most = min(most, e.Length-in)
			if e.Physical < 0 {
				return filewatch.Extent{Logical: off, Physical: -1, Length: most}, nil
			}
			return filewatch.Extent{Logical: off, Physical: e.Physical + in, Length: most}, nil
		}
	}
	if i < len(c.where.Extents) {
		hole.Length = min(most, c.where.Extents[i].Logical-off)
	}
	if hole.Length <= 0 {
		return hole, fmt.Errorf("extents out of order at %d: %w", off, filewatch.ErrCorrupt)
	}
	return hole, nil
}

// after is the index of the first extent that starts after off.
func after(es []filewatch.Extent, off int64) int {
	lo, hi := 0, len(es)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); es[mid].Logical <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func tail(b []byte, off int64) []byte {
	if off >= int64(len(b)) {
		return nil
	}
	return b[off:]
}

func short(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var zeros [256 << 10]byte
