package tree

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// content is what a file holds, as if all of it were read. Of one that has fewer
// blocks than bytes the holes are not: they are as large as whoever made the file
// likes, and each page of them is found and filled with zeros by the kernel.
type content struct {
	file   *os.File
	sparse bool

	off, end int64 // the position, and where what it is in ends
	hole     bool
}

// contentOf reads a file with the status st.
func contentOf(f *os.File, st *unix.Stat_t) *content {
	const unit = 512 // of st_blocks (stat(2))
	return &content{file: f, sparse: st.Blocks < st.Size/unit}
}

func (c *content) Close() error { return c.file.Close() }

// Read implements [io.Reader].
func (c *content) Read(b []byte) (int, error) {
	if !c.sparse {
		return c.file.Read(b)
	}
	if c.off >= c.end {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	b = b[:min(int64(len(b)), c.end-c.off)]
	if c.hole {
		clear(b)
		c.off += int64(len(b))
		return len(b), nil
	}
	n, err := c.file.ReadAt(b, c.off)
	if c.off += int64(n); n > 0 {
		err = nil // it comes again
	}
	return n, err
}

// next finds what the position is in (lseek(2), SEEK_DATA and SEEK_HOLE). Where a file
// system cannot tell, or tells what cannot be, the rest is data, of which reading finds
// the end. A hole ends with the file, which may have been cut or have grown meanwhile.
func (c *content) next() error {
	fd := int(c.file.Fd())
	data, err := unix.Seek(fd, c.off, unix.SEEK_DATA)
	c.hole, c.end = false, math.MaxInt64
	switch {
	case errors.Is(err, unix.ENXIO):
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if c.off >= st.Size {
			return io.EOF
		}
		c.hole, c.end = true, st.Size
	case err == nil && data > c.off:
		c.hole, c.end = true, data
	case err == nil:
		if hole, err := unix.Seek(fd, c.off, unix.SEEK_HOLE); err == nil && hole > c.off {
			c.end = hole
		}
	}
	if c.hole && c.end-c.off > volume.MaxHole {
		return fmt.Errorf("%d bytes at %d: %w", c.end-c.off, c.off, volume.ErrTooSparse)
	}
	return nil
}
