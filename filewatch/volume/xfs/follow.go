package xfs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrReshaped says that the superblock places things elsewhere.
var ErrReshaped = errors.New("superblock changed")

// Changed implements volume.Follower.
//
// A sector reads as it did when the device's own did not change and the log
// replaces it neither then nor now, or when it is of the log both times and of the
// same bytes. What the log replaces has no checksum, so that a sector is another
// when that begins or ends too. The inode trees are read whole, then and now: they
// have 16 bytes for 64 inodes.
func (v *Volume) Changed(old []byte, dirty []filewatch.Extent) (blocks []filewatch.Extent, inodes, renewed []uint64, err error) {
	was, err := parseMarks(old)
	if err != nil {
		return nil, nil, nil, err
	}
	now, err := v.moment()
	if err != nil {
		return nil, nil, nil, err
	}
	if was.shape != now.shape {
		return nil, nil, nil, ErrReshaped
	}
	logged := changedSectors(was, now)
	blocks = v.s.wholeBlocks(dirty, logged)
	renewed = slices.Concat(was.inodes, now.inodes, changedChunks(was, now), now.within(v.s, logged))
	inodes = now.within(v.s, blocks)
	for _, list := range []*[]uint64{&inodes, &renewed} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return blocks, inodes, renewed, nil
}

// changedSectors are the sectors that the log replaces by something else than it
// did, or began or ceased to replace.
func changedSectors(was, now *marks) []filewatch.Extent {
	var out []filewatch.Extent
	add := func(number int64) {
		if n := len(out); n > 0 && out[n-1].Physical+out[n-1].Length == number*512 {
			out[n-1].Length += 512
			return
		}
		out = append(out, filewatch.Extent{Physical: number * 512, Length: 512})
	}
	a, b := was.sectors, now.sectors
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].number < b[0].number:
			add(a[0].number)
			a = a[1:]
		case len(a) == 0 || b[0].number < a[0].number:
			add(b[0].number)
			b = b[1:]
		default:
			if a[0] != b[0] {
				add(a[0].number)
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// wholeBlocks are the blocks that runs of bytes meet.
func (s *super) wholeBlocks(lists ...[]filewatch.Extent) []filewatch.Extent {
	var out []filewatch.Extent
	for _, runs := range lists {
		for _, e := range runs {
			lo, hi := e.Physical/s.blockSize*s.blockSize, (e.Physical+e.Length+s.blockSize-1)/s.blockSize*s.blockSize
			out = append(out, filewatch.Extent{Physical: lo, Length: hi - lo})
		}
	}
	return out
}

// changedChunks are the inodes that came into being or went, became free or came
// into use by the inode tree: their own bytes may be what they were.
func changedChunks(was, now *marks) []uint64 {
	var out []uint64
	differ := func(a, b *chunk) {
		for i := range uint64(chunkInodes) {
			if a.has(i) != b.has(i) || a.has(i) && a.isFree(i) != b.isFree(i) {
				out = append(out, max(a.first, b.first)+i)
			}
		}
	}
	none := chunk{holes: 0xFFFF}
	a, b := was.chunks, now.chunks
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].first < b[0].first:
			differ(&a[0], &none)
			a = a[1:]
		case len(a) == 0 || b[0].first < a[0].first:
			differ(&none, &b[0])
			b = b[1:]
		default:
			if a[0] != b[0] {
				differ(&a[0], &b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// within are the inodes whose own bytes meet any of the runs.
func (m *marks) within(s *super, runs []filewatch.Extent) []uint64 {
	var out []uint64
	for _, e := range runs {
		end := e.Physical + e.Length
		i := sort.Search(len(m.chunks), func(i int) bool {
			return s.place(m.chunks[i].first)+chunkInodes*s.inodeSize > e.Physical
		})
		for ; i < len(m.chunks); i++ {
			c := &m.chunks[i]
			at := s.place(c.first)
			if at >= end {
				break
			}
			from, to := max(0, e.Physical-at)/s.inodeSize, min(chunkInodes, (end-at+s.inodeSize-1)/s.inodeSize)
			for n := uint64(from); n < uint64(to); n++ {
				if c.has(n) {
					out = append(out, c.first+n)
				}
			}
		}
	}
	return out
}

// Some implements volume.Follower.
func (v *Volume) Some(ctx context.Context, inodes []uint64, skip func(inode uint64, raw []byte) bool, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	m, err := v.moment()
	if err != nil {
		return err
	}
	r := v.newInodeReader(v.report(fn))
	for len(inodes) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at, ok := m.find(inodes[0])
		if !ok {
			inodes = inodes[1:]
			continue
		}
		c := &m.chunks[at]
		n := sort.Search(len(inodes), func(i int) bool { return inodes[i]-c.first >= chunkInodes })
		if err := r.some(c, inodes[:n], skip); err != nil {
			return err
		}
		inodes = inodes[n:]
	}
	return nil
}

// some reads the wanted inodes of one chunk, which are sorted.
func (r *inodeReader) some(c *chunk, wanted []uint64, skip func(inode uint64, raw []byte) bool) error {
	return c.runs(func(from, count uint64) error {
		lo := sort.Search(len(wanted), func(i int) bool { return wanted[i] >= c.first+from })
		hi := sort.Search(len(wanted), func(i int) bool { return wanted[i] >= c.first+from+count })
		if lo == hi {
			return nil
		}
		these := wanted[lo:hi]
		first, last := these[0]-c.first, these[len(these)-1]-c.first
		return r.run(c, first, last-first+1, func(number uint64, raw []byte) bool {
			_, ok := slices.BinarySearchFunc(these, number, cmp.Compare[uint64])
			return !ok || skip(number, raw)
		})
	})
}
