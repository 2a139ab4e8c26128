package xfs

import (
	"io"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// overlay is the device with what the log changed in place of its own: whole
// sectors of 512 bytes, the unit of the log.
type overlay struct {
	dev     io.ReaderAt
	sparse  span.Sparse
	sectors map[int64]*[512]byte
	// stale are blocks whose checksum is stale because of a change in another
	// place.
	stale sync.Map
	order []int64 // keys of sectors, sorted
}

func newOverlay(dev io.ReaderAt) *overlay {
	o := &overlay{dev: dev, sectors: map[int64]*[512]byte{}}
	o.sparse, _ = dev.(span.Sparse)
	return o
}

// ReadAt implements [io.ReaderAt].
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	n, err := o.dev.ReadAt(b, off)
	o.over(b[:n], off)
	return n, err
}

// ReadMany implements [span.Many].
func (o *overlay) ReadMany(bufs [][]byte, offs []int64) error {
	err := span.ReadMany(o.dev, bufs, offs)
	for i := 0; err == nil && i < len(bufs); i++ {
		o.over(bufs[i], offs[i])
	}
	return err
}

// over puts what the log changed over what was read at off.
func (o *overlay) over(b []byte, off int64) {
	if len(o.sectors) == 0 {
		return
	}
	end := off + int64(len(b))
	for i := o.find(off / 512); i < len(o.order) && o.order[i]*512 < end; i++ {
		at := o.order[i] * 512
		lo, hi := max(off, at), min(end, at+512)
		copy(b[lo-off:hi-off], o.sectors[o.order[i]][lo-at:])
	}
}

// changed says whether the log changed any of a range, so that checksums over
// it no longer hold.
func (o *overlay) changed(off, length int64) bool {
	if len(o.sectors) == 0 {
		return false
	}
	if i := o.find(off / 512); i < len(o.order) && o.order[i]*512 < off+length {
		return true
	}
	_, stale := o.stale.Load(off)
	return stale
}

func (o *overlay) note(off int64) { o.stale.Store(off, true) }

func (o *overlay) find(sector int64) int {
	lo, hi := 0, len(o.order)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); o.order[mid] < sector {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// NextData implements [span.Sparse].
func (o *overlay) NextData(off int64) (int64, error) {
	if o.sparse == nil {
		return off, nil
	}
	next, err := o.sparse.NextData(off)
	if err != nil && err != io.EOF {
		return 0, err
	}
	if i := o.find(off / 512); i < len(o.order) {
		if at := max(off, o.order[i]*512); err == io.EOF || at < next {
			return at, nil
		}
	}
	return next, err
}
