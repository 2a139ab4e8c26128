package span

import "io"

// Many is implemented by devices that read many pieces in little more than the time
// that the longest of them takes. ReadMany fills each of bufs from the offset beside
// it; after an error any of them may hold anything.
type Many interface {
	ReadMany(bufs [][]byte, offs []int64) error
}

// ReadMany fills each of bufs from the offset beside it, at once where r can do so.
func ReadMany(r io.ReaderAt, bufs [][]byte, offs []int64) error {
	if m, ok := r.(Many); ok {
		return m.ReadMany(bufs, offs)
	}
	for i, b := range bufs {
		if n, err := r.ReadAt(b, offs[i]); n < len(b) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// ReadMany implements [Many]: what lies on one device below is read at once, a buffer
// that lies across several by itself.
func (d *Device) ReadMany(bufs [][]byte, offs []int64) error {
	for from := 0; from < len(bufs); {
		below, end := d.below(bufs[from], offs[from]), from+1
		if below == nil {
			if _, err := d.ReadAt(bufs[from], offs[from]); err != nil {
				return err
			}
			from = end
			continue
		}
		places := []int64{below.From + offs[from] - below.Start}
		for ; end < len(bufs); end++ {
			p := d.below(bufs[end], offs[end])
			if p == nil || p.Below != below.Below {
				break
			}
			places = append(places, p.From+offs[end]-p.Start)
		}
		if err := ReadMany(below.Below, bufs[from:end], places); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// below is the piece that holds all of a buffer, nil where none does.
func (d *Device) below(b []byte, off int64) *Piece {
	i := d.find(off)
	if off < 0 || i >= len(d.pieces) {
		return nil
	}
	if p := &d.pieces[i]; p.Below != nil && off-p.Start <= p.Length-int64(len(b)) {
		return p
	}
	return nil
}
