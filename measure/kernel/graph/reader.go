package graph

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

var errTooMuch = errors.New("walk reads too many pages")

// reader reads each page of a target once, or again where it gave up its bytes for
// those of others.
type reader struct {
	space  *paging.Space
	limits limits
	asked  int    // pages
	oldest int    // of held: the next to be given up
	latest *frame // whose bytes page returned last
	spill  []byte // for what crosses a page
	*scratch
}

func newReader(space *paging.Space, s *scratch, l limits) *reader {
	s.frames.limit = l.frames
	return &reader{space: space.Cached(), limits: l, scratch: s}
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
	r.latest = f
	return f.bytes, nil
}

// fetch reads a page.
func (r *reader) fetch(f *frame) error {
	if r.asked == r.limits.reads {
		r.full = true
		return errTooMuch
	}
	r.asked++
	f.asked = true
	k := r.vacant()
	bytes := r.bytes(k)
	if r.space.Read(bytes[:], mem.Virt(f.number*mem.PageSize)) == nil {
		f.bytes, r.held[k] = bytes, f
	}
	return nil
}

// vacant returns a place of held without a frame: the last, if there is one, else
// a new one, or that of the page that was read first and nobody looks at.
func (r *reader) vacant() int {
	if n := len(r.held); n > 0 && r.held[n-1] == nil {
		return n - 1
	}
	if len(r.held) < r.limits.held {
		r.held = append(r.held, nil)
		return len(r.held) - 1
	}
	for {
		k := r.oldest
		r.oldest = (k + 1) % len(r.held)
		switch f := r.held[k]; {
		case f == nil:
			return k
		case f.pins == 0:
			f.bytes, f.asked, r.held[k] = nil, false, nil
			return k
		}
	}
}

// bytes returns the memory of a place of held.
func (r *reader) bytes(k int) *[mem.PageSize]byte {
	const each = chunkSize / mem.PageSize
	if k/each == len(r.chunks) {
		r.chunks = append(r.chunks, make([]byte, chunkSize))
	}
	return (*[mem.PageSize]byte)(r.chunks[k/each][k%each*mem.PageSize:])
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
