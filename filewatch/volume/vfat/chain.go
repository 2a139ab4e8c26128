package vfat

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// maxExtents bounds the memory of one file: 24 MiB.
const maxExtents = 1 << 20

// table reads entries of the allocation table through a window of it.
type table struct {
	v     *Volume
	buf   []byte
	start int64
}

// next is the cluster after n, or false at the end of a chain.
func (t *table) next(n uint32) (uint32, bool, error) {
	off := int64(n) * int64(t.v.bits) / 8
	width := int64(4)
	if t.v.bits != 32 {
		width = 2
	}
	if off+width > t.v.fatSize {
		return 0, false, fmt.Errorf("cluster %d is not in the table: %w", n, filewatch.ErrCorrupt)
	}
	if t.buf == nil || off < t.start || off+width > t.start+int64(len(t.buf)) {
		t.start = off &^ 0xFFF
		t.buf = make([]byte, min(64<<10, t.v.fatSize-t.start))
		if _, err := t.v.dev.ReadAt(t.buf, t.v.fat+t.start); err != nil {
			t.buf = nil
			return 0, false, fmt.Errorf("read allocation table at %#x: %w", t.v.fat+t.start, err)
		}
	}
	b := t.buf[off-t.start:]
	var entry, end uint32
	switch t.v.bits {
	case 12:
		entry, end = uint32(le.Uint16(b)), 0xFF8
		if n&1 != 0 {
			entry >>= 4
		}
		entry &= 0xFFF
	case 16:
		entry, end = uint32(le.Uint16(b)), 0xFFF8
	default:
		entry, end = le.Uint32(b)&0x0FFFFFFF, 0x0FFFFFF8
	}
	return entry, entry < end, nil
}

// chain follows a chain of clusters for at most size bytes; -1 is to its end.
func (t *table) chain(first uint32, size int64) ([]filewatch.Extent, error) {
	var out []filewatch.Extent
	v := t.v
	off := int64(0)
	for n, more := first, first != 0; more && (size < 0 || off < size); {
		if n < 2 || n-2 >= v.clusters {
			return out, fmt.Errorf("chain leads to cluster %d of %d: %w", n, v.clusters, filewatch.ErrCorrupt)
		}
		if off > int64(v.clusters)*v.cluster {
			return out, fmt.Errorf("chain from cluster %d goes in a circle: %w", first, filewatch.ErrCorrupt)
		}
		at := v.data + int64(n-2)*v.cluster
		if k := len(out); k > 0 && out[k-1].Physical+out[k-1].Length == at {
			out[k-1].Length += v.cluster
		} else if k >= maxExtents {
			return out, fmt.Errorf("more than %d extents: %w", maxExtents, filewatch.ErrNotSupported)
		} else {
			out = append(out, filewatch.Extent{Logical: off, Physical: at, Length: v.cluster})
		}
		off += v.cluster
		var err error
		if n, more, err = t.next(n); err != nil {
			return out, err
		}
	}
	if off < size {
		return out, fmt.Errorf("chain from cluster %d holds %d of %d bytes: %w", first, off, size, filewatch.ErrCorrupt)
	}
	return out, nil
}
