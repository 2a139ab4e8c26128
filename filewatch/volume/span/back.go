package span

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrUnknown: nobody says what changed on a disk.
var ErrUnknown = errors.New("what changed on its disk is not known")

// OnDisk is [Section] for the disk with this number, which [Device.Back] and
// [Device.Layout] go by.
func OnDisk(number int, disk io.ReaderAt, from, length int64) *Device {
	d := Section(disk, from, length)
	d.pieces[0].Disk = number
	return d
}

// Back is the other way round of [Device.Map]: it calls fn for the runs of this
// device that lie on the changed runs of the disks, by their numbers, of which
// Physical and Length count and which are sorted. fn gets them in no order, and
// bytes that several places of the device show several times.
func (d *Device) Back(changed map[int][]filewatch.Extent, fn func(at, length int64) error) error {
	return d.back(changed, 0, d.size, fn)
}

// layer is a device that lies on others.
type layer interface {
	mapper
	// back is [Device.Back] for a run of the device.
	back(changed map[int][]filewatch.Extent, from, length int64, fn func(at, length int64) error) error
	// layout is [Device.Layout] for a run of the device.
	layout(w io.Writer, from, length int64)
	// runs is [Device.Runs] for a run of the device.
	runs(from, length int64) []filewatch.Run
}

func (d *Device) back(changed map[int][]filewatch.Extent, from, length int64, fn func(at, length int64) error) error {
	return d.each(from, length, func(p *Piece, lo, hi int64) error {
		below := p.From + lo - p.Start
		up := func(at, n int64) error { return fn(p.Start+at-p.From, n) }
		if l, ok := p.Below.(layer); ok {
			return l.back(changed, below, hi-lo, up)
		}
		runs, known := changed[p.Disk]
		if !known {
			return ErrUnknown
		}
		i, _ := slices.BinarySearchFunc(runs, below, func(e filewatch.Extent, at int64) int {
			return cmp.Compare(e.Physical+e.Length, at+1)
		})
		for end := below + hi - lo; i < len(runs) && runs[i].Physical < end; i++ {
			first, last := max(below, runs[i].Physical), min(end, runs[i].Physical+runs[i].Length)
			if first < last {
				if err := up(first, last-first); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// each calls fn for each piece that holds some of a run, with that part of the run.
func (d *Device) each(from, length int64, fn func(p *Piece, lo, hi int64) error) error {
	end := min(from+length, d.size)
	for i := d.find(from); i < len(d.pieces) && d.pieces[i].Start < end; i++ {
		p := &d.pieces[i]
		if err := fn(p, max(from, p.Start), min(end, p.Start+p.Length)); err != nil {
			return err
		}
	}
	return nil
}

// Layout says where each byte of the device lies: two devices that write the same
// are in the same places of disks with the same numbers.
func (d *Device) Layout(w io.Writer) { d.layout(w, 0, d.size) }

func (d *Device) layout(w io.Writer, from, length int64) {
	d.each(from, length, func(p *Piece, lo, hi int64) error {
		below := p.From + lo - p.Start
		if l, ok := p.Below.(layer); ok {
			l.layout(w, below, hi-lo)
			return nil
		}
		_, err := fmt.Fprintf(w, "%d bytes from %d of disk %d\n", hi-lo, below, p.Disk)
		return err
	})
}

func (s *Stripes) back(changed map[int][]filewatch.Extent, from, length int64, fn func(at, length int64) error) error {
	end, row := min(from+length, s.size), s.chunk*int64(len(s.legs))
	first, last := from/row*s.chunk, (end+row-1)/row*s.chunk // of each leg
	for i, leg := range s.legs {
		err := leg.back(changed, first, last-first, func(at, n int64) error {
			for n > 0 {
				part := min(n, s.chunk-at%s.chunk)
				lo := at/s.chunk*row + int64(i)*s.chunk + at%s.chunk
				if a, b := max(lo, from), min(lo+part, end); a < b {
					if err := fn(a, b-a); err != nil {
						return err
					}
				}
				at, n = at+part, n-part
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Stripes) layout(w io.Writer, from, length int64) {
	fmt.Fprintf(w, "%d bytes from %d of stripes of %d on %d:\n", length, from, s.chunk, len(s.legs))
	for _, leg := range s.legs {
		leg.Layout(w)
	}
}

// Runs are the places of the device on its disks, as [filewatch.Place] has them.
func (d *Device) Runs() []filewatch.Run { return d.runs(0, d.size) }

func (d *Device) runs(from, length int64) (out []filewatch.Run) {
	d.each(from, length, func(p *Piece, lo, hi int64) error {
		below := p.From + lo - p.Start
		more := []filewatch.Run{{Offset: below, Length: hi - lo}}
		if l, ok := p.Below.(layer); ok {
			more = l.runs(below, hi-lo)
		}
		for _, r := range more {
			if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Length == r.Offset {
				out[last].Length += r.Length
				continue
			}
			out = append(out, r)
		}
		return nil
	})
	return out
}

func (s *Stripes) runs(int64, int64) (out []filewatch.Run) {
	for _, leg := range s.legs {
		out = append(out, leg.Runs()...)
	}
	return out
}
