package volume

import (
	"io"

	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// windowSize is how much of the device is read at once. Neighbouring small
// files come out of one read.
const windowSize = 1 << 20

// window is a piece of the device held in memory. Up to until it pays to read
// more than was asked for.
type window struct {
	dev    io.ReaderAt
	sparse span.Sparse
	buf    []byte
	start  int64
	n      int64
	until  int64
	// gathered are pieces of the device in buf, in the place of the one at start.
	gathered gathered
}

// newWindow reads into buf, which has at least one byte.
func newWindow(dev io.ReaderAt, buf []byte) *window {
	w := &window{dev: dev, buf: buf}
	w.sparse, _ = dev.(span.Sparse)
	return w
}

// at gives the bytes at off, at least one and at most length.
func (w *window) at(off, length int64) ([]byte, error) {
	if b := w.gathered.at(off); b != nil {
		return b[:min(int64(len(b)), length)], nil
	}
	if off < w.start || off >= w.start+w.n {
		if b, err := w.hole(off, length); b != nil || err != nil {
			return b, err
		}
		if err := w.fill(off, length); err != nil {
			return nil, err
		}
	}
	b := w.buf[off-w.start : w.n]
	return b[:min(int64(len(b)), length)], nil
}

// hole gives zeros without reading when the device has none at off.
func (w *window) hole(off, length int64) ([]byte, error) {
	if w.sparse == nil {
		return nil, nil
	}
	next, err := w.sparse.NextData(off)
	if err == io.EOF {
		next, err = off+length, nil
	}
	if err != nil || next <= off {
		return nil, err
	}
	return zeros[:min(next-off, length, int64(len(zeros)))], nil
}

// fill reads what is asked for and, up to w.until, what is wanted soon after
// it. A failure of the part ahead is not a failure of the part asked for.
func (w *window) fill(off, length int64) error {
	w.n, w.gathered = 0, gathered{}
	want := w.buf[:min(length, int64(len(w.buf)))]
	ahead := w.buf[:min(max(length, w.until-off), int64(len(w.buf)))]
	n, err := w.dev.ReadAt(ahead, off)
	if n < len(want) && len(want) < len(ahead) {
		n, err = w.dev.ReadAt(want, off)
	}
	if n < len(want) {
		return short(err)
	}
	w.start, w.n = off, int64(n)
	return nil
}
