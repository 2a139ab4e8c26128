package graph

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// maxPages bounds what one walk reads: 256 MiB.
const maxPages = 1 << 16

var errTooMuch = errors.New("walk reads too many pages")

// reader reads each page of a target once.
type reader struct {
	space *paging.Space
	asked int    // pages
	spill []byte // for what crosses a page
	arena []byte // pages to hand out
	chunk int    // the next of scratch's
	*scratch
}

func newReader(space *paging.Space, s *scratch) *reader {
	return &reader{space: space.Cached(), scratch: s}
}

// page returns the page that holds at, read when first asked for.
func (r *reader) page(at uint64) (*[mem.PageSize]byte, error) {
	f := r.frame(at)
	if !f.asked {
		if err := r.fetch(f); err != nil {
			return nil, err
		}
	}
	if f.bytes == nil {
		return nil, fmt.Errorf("page at %#x: %w", at, mem.ErrNotMapped)
	}
	return f.bytes, nil
}

// fetch reads a page.
func (r *reader) fetch(f *frame) error {
	if r.asked == maxPages {
		r.full = true
		return errTooMuch
	}
	r.asked++
	f.asked = true
	if len(r.arena) < mem.PageSize {
		if r.chunk == len(r.chunks) {
			r.chunks = append(r.chunks, make([]byte, chunkSize))
		}
		r.arena = r.chunks[r.chunk]
		r.chunk++
	}
	if r.space.Read(r.arena[:mem.PageSize], mem.Virt(f.number*mem.PageSize)) == nil {
		f.bytes = (*[mem.PageSize]byte)(r.arena)
		r.arena = r.arena[mem.PageSize:]
	}
	return nil
}

// read returns size bytes at an address, good until the next call.
func (r *reader) read(at, size uint64) ([]byte, error) {
	page, err := r.page(at)
	if err != nil {
		return nil, err
	}
	into := at % mem.PageSize
	if size <= mem.PageSize-into {
		return page[into:][:size], nil
	}
	if at+size < at {
		return nil, fmt.Errorf("%d bytes at %#x: %w", size, at, paging.ErrNotCanonical)
	}
	r.spill = append(r.spill[:0], page[into:]...)
	for next := at - into + mem.PageSize; uint64(len(r.spill)) < size; next += mem.PageSize {
		if page, err = r.page(next); err != nil {
			return nil, err
		}
		r.spill = append(r.spill, page[:min(uint64(len(page)), size-uint64(len(r.spill)))]...)
	}
	return r.spill, nil
}

// unreadable reports whether there is no memory at an address, as far as this
// walk may still read.
func (r *reader) unreadable(at uint64) bool {
	_, err := r.page(at)
	return errors.Is(err, mem.ErrNotMapped)
}

func (r *reader) u64(at uint64) (uint64, error) {
	b, err := r.read(at, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (r *reader) u32(at uint64) (uint32, error) {
	b, err := r.read(at, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// high reports whether an address is in the kernel's half of the address space,
// with 4 or 5 levels of page tables.
func high(at uint64) bool { return at>>56 == 0xff }
