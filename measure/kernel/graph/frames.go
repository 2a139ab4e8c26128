package graph

import (
	"math/bits"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxMarks is how many types of objects in one page are looked for one by one.
const maxMarks = 16

// frame is what a walk knows of one page of the target.
type frame struct {
	number uint64              // address / 4096
	bytes  *[mem.PageSize]byte // nil if it was not read, or cannot be
	asked  bool                // for bytes
	placed bool                // slab is known
	pins   uint8               // how many look at bytes, and may read on
	slab   *slab               // nil if the page is of none
	marks  marks
}

// marks are the places in a page where there is an object of one type, or a field.
type marks struct {
	typ  *Type  // nil if there is none yet
	next *marks // of another type
	bits [mem.PageSize / pointerSize / 64]uint64
}

const pointerSize = 8

// mark sets the bit of a place and reports whether it was not set.
func (m *marks) mark(at uint64) bool {
	word, bit := &m.bits[at%mem.PageSize/pointerSize/64], uint64(1)<<(at/pointerSize%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

func (m *marks) marked(at uint64) bool {
	return m.bits[at%mem.PageSize/pointerSize/64]>>(at/pointerSize%64)&1 != 0
}

// visit is an object: the same address may be one of several types, a structure
// and its first member.
type visit struct {
	at  uint64
	typ *Type
}

// frames is a table of pages by address. It is what a walk asks most often,
// several times for each object: what is asked together lies together.
type frames struct {
	slots []*frame // by hash; a power of two, half of them free
	all   pool[frame]
	more  pool[marks]    // of pages with objects of several types
	rest  map[visit]bool // of pages with objects of too many
	limit int            // pages; those of an honest machine are what it reads, and some that pointers lead to
	full  bool           // there were more pages
	// recent are frames by the low bits of their pages' numbers: what is asked for next
	// is often what was asked for just before.
	recent [64]*frame
}

func newFrames() *frames {
	return &frames{slots: make([]*frame, 1<<15), rest: make(map[visit]bool), limit: minFrames}
}

func (f *frames) clear() {
	clear(f.slots)
	clear(f.recent[:])
	clear(f.rest)
	f.all.clear()
	f.more.clear()
	f.full = false
}

// slot returns where the frame of a page is, or belongs.
func (f *frames) slot(number uint64) **frame {
	mask := len(f.slots) - 1
	// Multiplicative hashing (Knuth, TAOCP vol. 3, 6.4).
	hash := number * 0x9e37_79b9_7f4a_7c15
	for i := int(hash >> (64 - bits.Len(uint(mask)))); ; i = (i + 1) & mask {
		if s := f.slots[i]; s == nil || s.number == number {
			return &f.slots[i]
		}
	}
}

// frame returns the frame of the page that holds an address.
func (f *frames) frame(at uint64) *frame {
	number := at / mem.PageSize
	recent := &f.recent[number%uint64(len(f.recent))]
	if *recent != nil && (*recent).number == number {
		return *recent
	}
	slot := f.slot(number)
	if *slot != nil {
		*recent = *slot
		return *slot
	}
	if f.all.used == f.limit {
		f.full = true
		return &frame{number: number} // what is noted of it is forgotten
	}
	if f.all.used*2 >= len(f.slots) {
		f.grow()
		slot = f.slot(number)
	}
	*slot = f.all.next()
	(*slot).number = number
	return *slot
}

func (f *frames) grow() {
	old := f.slots
	f.slots = make([]*frame, 2*len(old))
	for _, one := range old {
		if one != nil {
			*f.slot(one.number) = one
		}
	}
}

// add adds an object and reports whether it was not there.
func (f *frames) add(at uint64, t *Type) bool {
	m := &f.frame(at).marks
	for n := 1; ; n++ {
		switch {
		case m.typ == t:
			return m.mark(at)
		case m.typ == nil:
			m.typ = t
			return m.mark(at)
		case m.next != nil:
			m = m.next
		case n < maxMarks:
			m.next = f.more.next()
			m = m.next
		default:
			known := f.rest[visit{at, t}]
			f.rest[visit{at, t}] = true
			return !known
		}
	}
}

// has reports whether an object was added.
func (f *frames) has(at uint64, t *Type) bool {
	frame := *f.slot(at / mem.PageSize)
	if frame == nil {
		return false
	}
	for m := &frame.marks; m != nil; m = m.next {
		if m.typ == t {
			return m.marked(at)
		}
	}
	return len(f.rest) > 0 && f.rest[visit{at, t}]
}

// pool is memory for values that stay where they are, and are used again.
type pool[T any] struct {
	chunks [][]T
	used   int
}

const poolChunk = 1 << 10

// next returns a zero value.
func (p *pool[T]) next() *T {
	if p.used == len(p.chunks)*poolChunk {
		p.chunks = append(p.chunks, make([]T, poolChunk))
	}
	out := &p.chunks[p.used/poolChunk][p.used%poolChunk]
	p.used++
	return out
}

// clear takes all values back.
func (p *pool[T]) clear() {
	for i := 0; i < p.used; i += poolChunk {
		clear(p.chunks[i/poolChunk][:min(poolChunk, p.used-i)])
	}
	p.used = 0
}
