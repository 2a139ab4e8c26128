// Package span builds block devices out of runs of other block devices: a
// partition is one run of a disk, a logical volume is several, perhaps striped.
package span

import (
	"fmt"
	"io"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Sparse is implemented by devices that know their holes. NextData gives the
// first offset at or after off that may hold data, and io.EOF when everything
// from off on reads as zeros.
type Sparse interface {
	NextData(off int64) (int64, error)
}

// Piece maps a run of a device to a run of the device below it.
type Piece struct {
	// Start is the first byte on this device, From on the one below.
	Start, From int64
	// Length is the run's length in bytes.
	Length int64
	// Below is the device below; nil is missing and every read of it fails.
	Below io.ReaderAt
	// Missing says why Below is nil.
	Missing string
	// Disk is the number of the disk that Below is; see [OnDisk].
	Disk int
}

// Device is a read-only device made of pieces. It is safe for concurrent use.
type Device struct {
	pieces []Piece
	size   int64
}

// Section is the device of length bytes at offset from of below.
func Section(below io.ReaderAt, from, length int64) *Device {
	return &Device{pieces: []Piece{{From: from, Length: length, Below: below}}, size: length}
}

// New joins pieces, which must be sorted and leave no gap.
func New(pieces []Piece) (*Device, error) {
	d := &Device{pieces: pieces}
	for _, p := range pieces {
		if p.Start != d.size || p.Length <= 0 || p.From < 0 {
			return nil, fmt.Errorf("piece at %#x of length %#x after %#x: %w", p.Start, p.Length, d.size, filewatch.ErrCorrupt)
		}
		d.size += p.Length
	}
	return d, nil
}

// Size is the device's length in bytes.
func (d *Device) Size() int64 { return d.size }

// ReadAt reads across pieces. Past the end it gives io.EOF.
func (d *Device) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	n := 0
	for i := d.find(off); n < len(b); i++ {
		if i >= len(d.pieces) {
			return n, io.EOF
		}
		p := &d.pieces[i]
		in := off + int64(n) - p.Start
		want := min(int64(len(b)-n), p.Length-in)
		if p.Below == nil {
			return n, fmt.Errorf("read at %#x: %s", off+int64(n), p.Missing)
		}
		got, err := p.Below.ReadAt(b[n:n+int(want)], p.From+in)
		n += got
		if int64(got) < want {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("read at %#x below: %w", p.From+in, io.ErrUnexpectedEOF)
			}
			return n, err
		}
	}
	return n, nil
}

// NextData is [Sparse]; a device below that does not know its holes has none.
func (d *Device) NextData(off int64) (int64, error) {
	for i := d.find(off); i < len(d.pieces); i++ {
		p := &d.pieces[i]
		at := max(off, p.Start)
		s, ok := p.Below.(Sparse)
		if !ok {
			return at, nil
		}
		next, err := s.NextData(p.From + at - p.Start)
		if err == io.EOF {
			continue
		}
		if err != nil {
			return 0, err
		}
		if next < p.From+p.Length {
			return p.Start + next - p.From, nil
		}
	}
	return 0, io.EOF
}

// mapper is a device that lies on another.
type mapper interface {
	Map(off, length int64) []filewatch.Extent
}

// Map gives the runs of the disk behind a run of this device. Runs that are
// missing are left out.
func (d *Device) Map(off, length int64) []filewatch.Extent {
	var out []filewatch.Extent
	end := min(off+length, d.size)
	for i := d.find(off); i < len(d.pieces) && off < end; i++ {
		p := &d.pieces[i]
		n := min(end, p.Start+p.Length) - off
		from := p.From + off - p.Start
		if below, ok := p.Below.(mapper); ok {
			for _, e := range below.Map(from, n) {
				e.Logical = off + e.Logical - from
				out = append(out, e)
			}
		} else if p.Below != nil {
			out = append(out, filewatch.Extent{Logical: off, Physical: from, Length: n})
		}
		off += n
	}
	return out
}

// find is the index of the piece that holds off, len(pieces) past the end.
func (d *Device) find(off int64) int {
	return sort.Search(len(d.pieces), func(i int) bool { return d.pieces[i].Start+d.pieces[i].Length > off })
}
