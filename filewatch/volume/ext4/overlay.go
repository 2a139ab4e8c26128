package ext4

import (
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// overlay is the device with replayed blocks in place of its own. The replayed
// blocks stay where they are, in the journal, so a large journal costs little
// memory.
type overlay struct {
	dev       io.ReaderAt
	sparse    span.Sparse
	blockSize int64
	size      int64
	blocks    []replaced // sorted by block
}

// replaced says that a block's content is that of the journal's block at from.
type replaced struct {
	block, from uint64
	// escaped blocks began with the journal's own magic, which the journal
	// keeps as zeros.
	escaped bool
}

func newOverlay(dev io.ReaderAt, blockSize, size int64) *overlay {
	o := &overlay{dev: dev, blockSize: blockSize, size: size}
	o.sparse, _ = dev.(span.Sparse)
	return o
}

// replace puts the last version of each block in place.
func (o *overlay) replace(m map[uint64]replaced) {
	o.blocks = make([]replaced, 0, len(m))
	for _, r := range m {
		o.blocks = append(o.blocks, r)
	}
	slices.SortFunc(o.blocks, func(a, b replaced) int {
		if a.block < b.block {
			return -1
		}
		return 1
	})
}

// ReadAt implements [io.ReaderAt].
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	n, err := o.dev.ReadAt(b, off)
	if e := o.over(b[:n], off); e != nil {
		return 0, e
	}
	return n, err
}

// ReadMany implements [span.Many].
func (o *overlay) ReadMany(bufs [][]byte, offs []int64) error {
	err := span.ReadMany(o.dev, bufs, offs)
	for i := 0; err == nil && i < len(bufs); i++ {
		err = o.over(bufs[i], offs[i])
	}
	return err
}

// over puts the replayed blocks over what was read at off.
func (o *overlay) over(b []byte, off int64) error {
	if len(o.blocks) == 0 || off < 0 {
		return nil
	}
	first := uint64(off / o.blockSize)
	end := off + int64(len(b))
	for i := o.find(first); i < len(o.blocks); i++ {
		at := int64(o.blocks[i].block) * o.blockSize
		if at >= end {
			break
		}
		if err := o.patch(b, off, at, o.blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// patch copies the part of a replaced block that overlaps b.
func (o *overlay) patch(b []byte, off, at int64, r replaced) error {
	lo, hi := max(off, at), min(off+int64(len(b)), at+o.blockSize)
	part := b[lo-off : hi-off]
	if _, err := o.dev.ReadAt(part, int64(r.from)*o.blockSize+lo-at); err != nil {
		return fmt.Errorf("read block %d from the journal at block %d: %w", r.block, r.from, err)
	}
	if r.escaped && lo < at+4 {
		var magic [4]byte
		be.PutUint32(magic[:], journalMagic)
		copy(part, magic[lo-at:])
	}
	return nil
}

func (o *overlay) find(block uint64) int {
	return sort.Search(len(o.blocks), func(i int) bool { return o.blocks[i].block >= block })
}

// NextData implements [span.Sparse]: replayed blocks are data even where the
// device has a hole.
func (o *overlay) NextData(off int64) (int64, error) {
	if o.sparse == nil {
		return off, nil
	}
	next, err := o.sparse.NextData(off)
	if err != nil && err != io.EOF {
		return 0, err
	}
	if i := o.find(uint64(off / o.blockSize)); i < len(o.blocks) {
		at := max(off, int64(o.blocks[i].block)*o.blockSize)
		if err == io.EOF || at < next {
			return at, nil
		}
	}
	return next, err
}
