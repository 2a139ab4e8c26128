package paging

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

// nestedLike maps a page of each size from address 0 on.
func nestedLike(t *tables) mem.Phys {
	root, l3, l2, l1 := t.table(), t.table(), t.table(), t.table()
	t.set(root, 0, uint64(l3)|present|rw|user)
	t.set(root, 511, uint64(l3)|present) // the same table again
	t.set(l3, 0, uint64(l2)|present|rw|user)
	t.set(l3, 1, 0x4000_0000|present|large)
	t.set(l3, 2, 0xdead_0000_0000|present) // nowhere
	t.set(l2, 0, uint64(l1)|present|rw|user)
	t.set(l2, 1, 0x20_0000|present|rw|user|large)
	t.set(l2, 2, 0x21_0000|present|large) // misaligned
	t.set(l2, 3, uint64(root)|present)    // a loop
	t.set(l1, 3, 0x7000|present|5<<52|nx)
	return root
}

func TestWalkTree(t *testing.T) {
	tb := newTables()
	root := nestedLike(tb)
	var got []Leaf
	levels := make(map[mem.Phys]int)
	odd := make(map[uint64]error)
	err := WalkTree(tb, root, Tree{
		Table: func(t Table) error { levels[t.Phys] = t.Level; return nil },
		Leaf:  func(l Leaf) error { got = append(got, l); return nil },
		Odd:   func(from uint64, err error) error { odd[from] = err; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Leaf{
		{0x3000, 0x7000, 0x1000, root + 0x3018, 0x7000 | present | 5<<52 | nx},
		{0x20_0000, 0x20_0000, 0x20_0000, root + 0x2008, 0x20_0000 | present | rw | user | large},
		{0x4000_0000, 0x4000_0000, 0x4000_0000, root + 0x1008, 0x4000_0000 | present | large},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if levels[root] != 4 || levels[root+0x1000] != 3 || levels[root+0x3000] != 1 || len(levels) != 5 {
		t.Errorf("tables %v", levels)
	}
	for from, want := range map[uint64]error{511 << 39: ErrTwice, 2 << 30: mem.ErrNotMapped, 2 << 21: ErrReserved, 3 << 21: ErrTwice} {
		if !errors.Is(odd[from], want) {
			t.Errorf("%#x: %v, want %v", from, odd[from], want)
		}
	}
	if len(odd) != 4 {
		t.Errorf("odd are %v", odd)
	}
}

// A visitor's error ends the walk, whichever function it is of.
func TestWalkTreeStops(t *testing.T) {
	tb := newTables()
	root := nestedLike(tb)
	stop := errors.New("enough")
	for i, visitor := range []Tree{
		{Table: func(Table) error { return stop }},
		{Leaf: func(Leaf) error { return stop }},
		{Odd: func(uint64, error) error { return stop }},
	} {
		if err := WalkTree(tb, root, visitor); !errors.Is(err, stop) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := WalkTree(tb, root, Tree{}); err != nil {
		t.Error(err)
	}
}

// everywhere is memory full of tables whose entries all lead to other tables.
type everywhere struct{ memtest.Pages }

func (everywhere) ReadPhys(p []byte, at mem.Phys) error {
	for i := 0; i+8 <= len(p); i += 8 {
		next := uint64(at)*512 + uint64(i/8+1)*mem.PageSize
		for b := range 8 {
			p[i+b] = byte((next&entryAddress | present) >> (8 * b))
		}
	}
	return nil
}

func TestWalkTreeIsBounded(t *testing.T) {
	walk := tree{mem: everywhere{}, limit: 2000, seen: make(map[mem.Phys]bool)}
	if err := walk.table(Table{Level: 4}, 0); !errors.Is(err, ErrTooManyTables) {
		t.Errorf("error %v", err)
	}
}

// FuzzWalkTree walks tables of which an entry of each level is made up: no page
// is visited twice from one table, and none that is not where it says.
func FuzzWalkTree(f *testing.F) {
	f.Add(uint64(present), uint64(0x20_0000|present|large), uint64(0x10_0000|present))
	f.Add(uint64(0x10_1000|present), uint64(0x10_0000|present), uint64(0x10_2000|present|large))
	f.Fuzz(func(t *testing.T, e4, e3, e2 uint64) {
		tb := newTables()
		root := nestedLike(tb)
		tb.set(root, 1, e4)
		tb.set(root+0x1000, 3, e3)
		tb.set(root+0x2000, 4, e2)
		seen := make(map[mem.Phys]bool)
		err := WalkTree(tb, root, Tree{
			Table: func(at Table) error {
				if seen[at.Phys] {
					t.Fatalf("table %v twice", at.Phys)
				}
				seen[at.Phys] = true
				return nil
			},
			Leaf: func(l Leaf) error {
				if l.From%l.Size != 0 || uint64(l.Phys)%l.Size != 0 {
					t.Fatalf("leaf %+v", l)
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
