package paging

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrTooManyTables means that a walk met more tables than its limit.
var ErrTooManyTables = errors.New("too many page tables")

// MaxTables bounds the tables one walk reads. A kernel half that maps 1 TiB of
// RAM with large pages has about 2,000; every process adds none to it.
const MaxTables = 1 << 16

// Walk calls visit for each page mapped in [from, to], in ascending order; to
// is the last address, not the one after it. It stops when visit returns false.
// Tables that cannot be read are passed to lost with the range they cover; a
// nil lost ends the walk with the error instead.
func (s *Space) Walk(from, to mem.Virt, visit func(Mapping) bool, lost func(from, to mem.Virt, err error)) error {
	w := walk{space: s, from: from, to: to, visit: visit, lost: lost}
	return w.run()
}

// WalkOnce is [Space.Walk] of a range that maps the same tables many times over:
// what is in a table is visited where it is met first, and again only with other
// permissions from the levels above.
func (s *Space) WalkOnce(from, to mem.Virt, visit func(Mapping) bool, lost func(from, to mem.Virt, err error)) error {
	w := walk{space: s, from: from, to: to, visit: visit, lost: lost, seen: make(map[visited]bool)}
	return w.run()
}

var errStop = errors.New("stop")

// visited is a table with what decides the meaning of its entries.
type visited struct {
	at    mem.Phys
	level int
	flags Flags
}

type walk struct {
	space    *Space
	from, to mem.Virt
	visit    func(Mapping) bool
	lost     func(from, to mem.Virt, err error)
	tables   int
	seen     map[visited]bool // whole tables, nil to visit each as often as it is met
}

func (w *walk) run() error {
	err := w.table(w.space.root, w.space.levels, 0, Writable|User)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// table visits one table that covers addresses from base on.
func (w *walk) table(at mem.Phys, level int, base mem.Virt, flags Flags) error {
	shift := shiftOf(level)
	if w.seen != nil && base >= w.from && base|(1<<(shift+9)-1) <= w.to {
		v := visited{at, level, flags}
		if w.seen[v] {
			return nil
		}
		w.seen[v] = true
	}
	if w.tables++; w.tables > MaxTables {
		return fmt.Errorf("walk page tables: %w", ErrTooManyTables)
	}
	var page [mem.PageSize]byte
	if err := w.space.mem.ReadPhys(page[:], at); err != nil {
		err = fmt.Errorf("read %s at %v: %w", levelName(level), at, err)
		if w.lost == nil {
			return err
		}
		w.lost(base, base|(1<<(shift+9)-1), err)
		return nil
	}
	for i := range mem.Virt(512) {
		start := w.sign(base | i<<shift)
		if last := start | (1<<shift - 1); last < w.from || start > w.to {
			continue
		}
		entry := binary.LittleEndian.Uint64(page[i*8:])
		if entry&entryPresent == 0 {
			continue
		}
		if err := w.entry(entry, level, start, flags); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(entry uint64, level int, start mem.Virt, flags Flags) error {
	flags = combine(flags, entry)
	if level > 1 && entry&entryLarge == 0 {
		return w.table(mem.Phys(entry&entryAddress), level-1, start, flags)
	}
	m, err := leaf(start, entry, level, flags)
	if err != nil {
		if w.lost == nil {
			return err
		}
		w.lost(start, start|(1<<shiftOf(level)-1), err)
		return nil
	}
	if !w.visit(m) {
		return errStop
	}
	return nil
}

// sign extends the top address bit.
func (w *walk) sign(at mem.Virt) mem.Virt {
	unused := 64 - shiftOf(w.space.levels+1)
	return mem.Virt(int64(at<<unused) >> unused)
}
