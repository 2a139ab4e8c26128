package dump

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	// maxExtents bounds the runs of dumped pages.
	maxExtents = 1 << 20
	// rankStep is how many bytes of the bitmap share one count.
	rankStep = 64
	// keptPages is how many decompressed pages are kept: 4 MiB.
	keptPages = 1024
	// tail is how many of the last descriptors are looked at when a dump is
	// opened, to tell at once that it was cut short.
	tail = 4096
)

// pages is RAM in compressed pages. It implements [mem.Reader].
type pages struct {
	src     *source
	bitmap  []byte   // dumped pages, one bit each
	ranks   []uint32 // dumped pages before each rankStep bytes of bitmap
	descs   uint64   // offset of the descriptors
	count   uint64   // of dumped pages
	extents []mem.Extent

	mu   sync.Mutex
	kept [keptPages]keptPage
}

type keptPage struct {
	frame uint64
	bytes *[mem.PageSize]byte // nil in a free slot
}

func newPages(src *source, f kdumpFacts) (*pages, error) {
	if f.bitmap > src.size || f.bitmapLen > src.size-f.bitmap {
		return nil, fmt.Errorf("bitmap of %d bytes at offset %#x of %#x: %w", f.bitmapLen, f.bitmap, src.size, io.ErrUnexpectedEOF)
	}
	p := &pages{src: src, bitmap: make([]byte, f.bitmapLen), descs: f.pages}
	if err := src.read(p.bitmap, f.bitmap); err != nil {
		return nil, fmt.Errorf("bitmap: %w", err)
	}
	if unused := f.frames % 8; unused != 0 {
		p.bitmap[len(p.bitmap)-1] &= 1<<unused - 1
	}
	for i, b := range p.bitmap {
		if i%rankStep == 0 {
			p.ranks = append(p.ranks, uint32(p.count))
		}
		p.count += uint64(bits.OnesCount8(b))
		for ; b != 0; b &= b - 1 {
			frame := uint64(i)*8 + uint64(bits.TrailingZeros8(b))
			p.extents = appendExtent(p.extents, mem.Extent{Start: mem.Phys(frame * mem.PageSize), Size: mem.PageSize})
		}
		if len(p.extents) > maxExtents {
			return nil, fmt.Errorf("%w: more than %d ranges of pages", ErrFormat, maxExtents)
		}
	}
	if p.count == 0 {
		return nil, fmt.Errorf("%w: it holds no RAM", ErrFormat)
	}
	return p, p.checkTail()
}

// checkTail looks for the pages that the file's end would have lost.
func (p *pages) checkTail() error {
	for i := p.count - min(p.count, tail); i < p.count; i++ {
		d, err := p.describe(i)
		if err != nil {
			return err
		}
		if d.offset > p.src.size || uint64(d.size) > p.src.size-d.offset {
			return fmt.Errorf("page %d of %d: %d bytes at offset %#x of %#x: %w", i, p.count, d.size, d.offset, p.src.size, io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// describe reads a page's descriptor (struct page_desc).
func (p *pages) describe(index uint64) (packed, error) {
	var b [kdumpPage]byte
	if err := p.src.read(b[:], p.descs+index*kdumpPage); err != nil {
		return packed{}, fmt.Errorf("descriptor %d of %d: %w", index, p.count, err)
	}
	c := bin.Little(b[:])
	return packed{offset: c.U64(), size: c.U32(), flags: c.U32()}, c.Err()
}

// index is the number of dumped pages before a frame, if it was dumped.
func (p *pages) index(frame uint64) (uint64, bool) {
	at := frame / 8
	if at >= uint64(len(p.bitmap)) || p.bitmap[at]>>(frame%8)&1 == 0 {
		return 0, false
	}
	n := uint64(p.ranks[at/rankStep])
	for _, b := range p.bitmap[at/rankStep*rankStep : at] {
		n += uint64(bits.OnesCount8(b))
	}
	return n + uint64(bits.OnesCount8(p.bitmap[at]&(1<<(frame%8)-1))), true
}

// ReadPhys implements [mem.Reader].
func (p *pages) ReadPhys(b []byte, at mem.Phys) error {
	for len(b) > 0 {
		page, err := p.page(uint64(at) / mem.PageSize)
		if err != nil {
			return fmt.Errorf("physical %v: %w", at, err)
		}
		n := copy(b, page[at%mem.PageSize:])
		b = b[n:]
		at += mem.Phys(n)
	}
	return nil
}

// page returns the bytes of a page, which nobody changes.
func (p *pages) page(frame uint64) (*[mem.PageSize]byte, error) {
	slot := &p.kept[frame%keptPages]
	p.mu.Lock()
	kept := *slot
	p.mu.Unlock()
	if kept.bytes != nil && kept.frame == frame {
		return kept.bytes, nil
	}
	index, ok := p.index(frame)
	if !ok {
		return nil, mem.ErrNotMapped
	}
	d, err := p.describe(index)
	if err != nil {
		return nil, err
	}
	page := new([mem.PageSize]byte)
	if err := d.unpack(page, p.src); err != nil {
		return nil, fmt.Errorf("page %d of dump: %w", index, err)
	}
	p.mu.Lock()
	*slot = keptPage{frame, page}
	p.mu.Unlock()
	return page, nil
}

// Extents implements [mem.Reader].
func (p *pages) Extents() []mem.Extent { return slices.Clone(p.extents) }
