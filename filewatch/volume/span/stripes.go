package span

import (
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Stripes is a device whose content goes round over several others, a chunk at
// a time.
type Stripes struct {
	legs  []*Device
	chunk int64
	size  int64
}

// NewStripes joins legs of equal size in chunks of the given number of bytes.
func NewStripes(legs []*Device, chunk int64) (*Stripes, error) {
	if len(legs) == 0 || chunk <= 0 {
		return nil, fmt.Errorf("%d stripes of %d bytes: %w", len(legs), chunk, filewatch.ErrCorrupt)
	}
	for _, l := range legs {
		if l.size != legs[0].size || l.size%chunk != 0 {
			return nil, fmt.Errorf("stripes of %d and %d bytes in chunks of %d: %w", legs[0].size, l.size, chunk, filewatch.ErrCorrupt)
		}
	}
	return &Stripes{legs: legs, chunk: chunk, size: legs[0].size * int64(len(legs))}, nil
}

// at is the leg and the offset in it of a byte, and how much of its chunk is
// left.
func (s *Stripes) at(off int64) (*Device, int64, int64) {
	n, in := off/s.chunk, off%s.chunk
	width := int64(len(s.legs))
	return s.legs[n%width], n/width*s.chunk + in, s.chunk - in
}

// ReadAt implements [io.ReaderAt].
func (s *Stripes) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		if off < 0 || off+int64(n) >= s.size {
			return n, io.EOF
		}
		leg, at, left := s.at(off + int64(n))
		got, err := leg.ReadAt(b[n:n+int(min(left, int64(len(b)-n)))], at)
		n += got
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// NextData implements [Sparse].
func (s *Stripes) NextData(off int64) (int64, error) {
	for off < s.size {
		leg, at, left := s.at(off)
		next, err := leg.NextData(at)
		if err == nil && next == at {
			return off, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if err == nil && next < at+left {
			return off + next - at, nil
		}
		off += left
	}
	return 0, io.EOF
}

// Map gives the runs of the disk behind a run of this device.
func (s *Stripes) Map(off, length int64) []filewatch.Extent {
	var out []filewatch.Extent
	for end := min(off+length, s.size); off < end; {
		leg, at, left := s.at(off)
		n := min(left, end-off)
		for _, e := range leg.Map(at, n) {
			e.Logical += off - at
			out = append(out, e)
		}
		off += n
	}
	return out
}
