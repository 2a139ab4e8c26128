package paging

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrTwice means that a table is part of a tree in more than one place.
var ErrTwice = errors.New("page table is used twice")

// maxTree bounds the tables of one tree: they are enough for 2 TiB in pages of
// 4 KiB.
const maxTree = 1 << 20

// Leaf is an entry that maps a page.
type Leaf struct {
	From  uint64   // the address that is mapped, not sign-extended
	Phys  mem.Phys // what it is mapped to
	Size  uint64   // 4 KiB, 2 MiB or 1 GiB
	At    mem.Phys // where the entry lies
	Entry uint64
}

// Table is a table of a tree.
type Table struct {
	Phys  mem.Phys
	Level int      // 4 is the top
	At    mem.Phys // where the entry that leads to it lies, 0 for the top
	Entry uint64   // and that entry
}

// Tree is a visitor of page tables of the format of long mode with four levels,
// which is that of AMD's nested tables too (AMD64 APM vol. 2, 15.25.5). Each
// function may be nil; an error of one ends the walk.
type Tree struct {
	Table func(Table) error // before what is in it
	Leaf  func(Leaf) error
	// Odd is told of a table that is not read a second time ([ErrTwice]), one that
	// cannot be read, and an entry with a reserved bit ([ErrReserved]); from is the
	// first address that it is for.
	Odd func(from uint64, err error) error
}

// WalkTree visits the tables beneath root, each of them once, however they loop.
func WalkTree(m mem.Reader, root mem.Phys, visitor Tree) error {
	t := tree{mem: m, visitor: visitor, limit: maxTree, seen: make(map[mem.Phys]bool)}
	return t.table(Table{Phys: root, Level: 4}, 0)
}

type tree struct {
	mem     mem.Reader
	visitor Tree
	limit   int // of tables
	seen    map[mem.Phys]bool
}

func (t *tree) table(at Table, from uint64) error {
	if t.seen[at.Phys] {
		return t.odd(from, fmt.Errorf("%s at %v: %w", levelName(at.Level), at.Phys, ErrTwice))
	}
	if t.seen[at.Phys] = true; len(t.seen) > t.limit {
		return fmt.Errorf("walk page tables: %w", ErrTooManyTables)
	}
	if t.visitor.Table != nil {
		if err := t.visitor.Table(at); err != nil {
			return err
		}
	}
	var page [mem.PageSize]byte
	if err := t.mem.ReadPhys(page[:], at.Phys); err != nil {
		return t.odd(from, fmt.Errorf("read %s at %v: %w", levelName(at.Level), at.Phys, err))
	}
	for i := range uint64(512) {
		entry := binary.LittleEndian.Uint64(page[8*i:])
		if entry&entryPresent == 0 {
			continue
		}
		if err := t.entry(entry, at.Phys+mem.Phys(8*i), at.Level, from+i<<shiftOf(at.Level)); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) entry(entry uint64, at mem.Phys, level int, from uint64) error {
	if level > 1 && entry&entryLarge == 0 {
		return t.table(Table{Phys: mem.Phys(entry & entryAddress), Level: level - 1, At: at, Entry: entry}, from)
	}
	m, err := leaf(mem.Virt(from), entry, level, 0)
	switch {
	case err != nil:
		return t.odd(from, err)
	case t.visitor.Leaf == nil:
		return nil
	}
	return t.visitor.Leaf(Leaf{From: from, Phys: m.Phys, Size: m.Size, At: at, Entry: entry})
}

func (t *tree) odd(from uint64, err error) error {
	if t.visitor.Odd == nil {
		return nil
	}
	return t.visitor.Odd(from, err)
}
