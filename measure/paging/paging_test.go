package paging

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

const (
	present = 1
	rw      = 2
	user    = 4
	large   = 0x80
	nx      = 1 << 63
)

// tables builds page tables by hand.
type tables struct {
	memtest.Pages
	next mem.Phys
}

func newTables() *tables {
	t := &tables{Pages: make(memtest.Pages), next: 0x10_0000}
	return t
}

// table makes an empty table.
func (t *tables) table() mem.Phys {
	at := t.next
	t.next += mem.PageSize
	t.Write(at, 0)
	return at
}

func (t *tables) set(table mem.Phys, index int, entry uint64) {
	t.WriteU64(table+mem.Phys(index*8), entry)
}

// kernelLike maps three pages of different sizes in the kernel's half.
func kernelLike(t *tables, levels int) *Space {
	root := t.table()
	top := root
	if levels == 5 {
		pml4 := t.table()
		t.set(root, 511, uint64(pml4)|present|rw)
		top = pml4
	}
	pdpt, pd, pt := t.table(), t.table(), t.table()
	t.set(top, 511, uint64(pdpt)|present|rw)
	t.set(pdpt, 510, uint64(pd)|present|rw)                // 0xffffffff80000000
	t.set(pdpt, 509, 0x4000_0000|present|rw|large|nx|user) // 0xffffffff40000000, 1 GiB
	t.set(pd, 8, 0x20_0000|present|large)                  // 0xffffffff81000000, 2 MiB
	t.set(pd, 9, uint64(pt)|present|rw)                    // 0xffffffff81200000
	t.set(pt, 3, 0x7000|present|rw|nx)
	return SpaceAt(t, root, levels)
}

func TestTranslate(t *testing.T) {
	for _, levels := range []int{4, 5} {
		s := kernelLike(newTables(), levels)
		tests := []struct {
			at   mem.Virt
			want Mapping
			err  error
		}{
			{at: 0xffff_ffff_8112_3456, want: Mapping{0xffff_ffff_8100_0000, 0x20_0000, 0x20_0000, 0, 0x20_0000 | present | large}},
			{at: 0xffff_ffff_8120_3001, want: Mapping{0xffff_ffff_8120_3000, 0x7000, 0x1000, Writable | NoExecute, 0x7000 | present | rw | nx}},
			{at: 0xffff_ffff_7fff_ffff, want: Mapping{0xffff_ffff_4000_0000, 0x4000_0000, 0x4000_0000, Writable | NoExecute, 0x4000_0000 | present | rw | large | nx | user}},
			{at: 0xffff_ffff_8120_4000, err: ErrNotPresent},
			{at: 0, err: ErrNotPresent},
			{at: 0x7fff_ffff_ffff_ffff, err: ErrNotCanonical},
		}
		for _, tt := range tests {
			got, err := s.Translate(tt.at)
			if !errors.Is(err, tt.err) {
				t.Errorf("%d levels, %v: error %v, want %v", levels, tt.at, err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%d levels, %v (-want +got):\n%s", levels, tt.at, diff)
			}
		}
		// Bit 47 set alone is canonical with five levels only.
		if _, err := s.Translate(0x0000_8000_0000_0000); errors.Is(err, ErrNotCanonical) != (levels == 4) {
			t.Errorf("%d levels: %v", levels, err)
		}
	}
}

// The upper level's permissions bind the lower ones.
func TestPermissionsCombine(t *testing.T) {
	tb := newTables()
	root, pdpt, pd := tb.table(), tb.table(), tb.table()
	tb.set(root, 0, uint64(pdpt)|present|user) // read-only
	tb.set(pdpt, 0, uint64(pd)|present|rw|user|nx)
	tb.set(pd, 0, 0x20_0000|present|rw|user|large)
	got, err := SpaceAt(tb, root, 4).Translate(0x1000)
	if err != nil || got.Flags != User|NoExecute {
		t.Errorf("flags %v, error %v", got.Flags, err)
	}
}

func TestRefusesMalformedEntries(t *testing.T) {
	tb := newTables()
	root, pdpt, pd := tb.table(), tb.table(), tb.table()
	tb.set(root, 0, uint64(pdpt)|present)
	tb.set(root, 1, 0x20_0000|present|large)
	tb.set(pdpt, 0, uint64(pd)|present)
	tb.set(pdpt, 1, 0xdead_0000_0000|present) // a table outside of RAM
	tb.set(pd, 0, 0x21_0000|present|large)    // misaligned
	s := SpaceAt(tb, root, 4)
	for at, want := range map[mem.Virt]error{
		1 << 39: ErrReserved,
		1 << 30: mem.ErrNotMapped,
		0:       ErrReserved,
	} {
		if _, err := s.Translate(at); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", at, err, want)
		}
	}
}

func TestWalkVisitsWhatTranslateFinds(t *testing.T) {
	for _, levels := range []int{4, 5} {
		s := kernelLike(newTables(), levels)
		var got []Mapping
		err := s.Walk(0, ^mem.Virt(0), func(m Mapping) bool { got = append(got, m); return true }, nil)
		if err != nil || len(got) != 3 {
			t.Fatalf("%d levels: %v, %v", levels, got, err)
		}
		for _, m := range got {
			want, err := s.Translate(m.Virt + 0x123)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("%d levels (-translate +walk):\n%s", levels, diff)
			}
		}
	}
}

func TestWalkStopsWhenTold(t *testing.T) {
	s := kernelLike(newTables(), 4)
	n := 0
	if err := s.Walk(0, ^mem.Virt(0), func(Mapping) bool { n++; return false }, nil); err != nil || n != 1 {
		t.Errorf("%d pages visited, error %v", n, err)
	}
}

// Tables that point at themselves map every address: the walk must end.
func TestWalkSurvivesLoops(t *testing.T) {
	tb := newTables()
	root := tb.table()
	for i := range 512 {
		tb.set(root, i, uint64(root)|present|rw)
	}
	err := SpaceAt(tb, root, 4).Walk(0, ^mem.Virt(0), func(Mapping) bool { return true }, nil)
	if !errors.Is(err, ErrTooManyTables) {
		t.Errorf("error %v, want %v", err, ErrTooManyTables)
	}
}

// WalkOnce visits a table that is mapped many times over once for each set of
// permissions, wherever it is met, and a table that is in the range in part as
// often as that is.
func TestWalkOnceVisitsTablesOnce(t *testing.T) {
	tb := newTables()
	root, pdpt, pd, pt := tb.table(), tb.table(), tb.table(), tb.table()
	tb.set(root, 510, uint64(pdpt)|present|rw)
	for i := range 512 {
		entry := uint64(pd) | present | nx
		if i >= 500 {
			entry |= rw
		}
		tb.set(pdpt, i, entry)
		tb.set(pd, i, uint64(pt)|present|rw)
	}
	tb.set(pt, 3, 0x7000|present|rw)
	tb.set(pt, 9, 0x8000|present)
	const from, pdSize mem.Virt = 0xffff_ff00_0000_0000, 1 << 30
	type page struct {
		at       mem.Virt
		phys     mem.Phys
		writable bool
	}
	walk := func(from, to mem.Virt) (got []page) {
		err := SpaceAt(tb, root, 4).WalkOnce(from, to, func(m Mapping) bool {
			got = append(got, page{m.Virt, m.Phys, m.Flags&Writable != 0})
			return true
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []page{{from + 0x3000, 0x7000, false}, {from + 0x9000, 0x8000, false},
		{from + 500*pdSize + 0x3000, 0x7000, true}, {from + 500*pdSize + 0x9000, 0x8000, false}}
	if diff := cmp.Diff(want, walk(from, from+512*pdSize-1), cmp.AllowUnexported(page{})); diff != "" {
		t.Error(diff)
	}
	// Of the first table only the second page, of the next both: it is seen whole there.
	want = []page{{from + 0x9000, 0x8000, false}, {from + 2<<20 + 0x3000, 0x7000, false}, {from + 2<<20 + 0x9000, 0x8000, false}}
	if diff := cmp.Diff(want, walk(from+0x4000, from+4<<20-1), cmp.AllowUnexported(page{})); diff != "" {
		t.Error(diff)
	}
}

// Tables that point at themselves are one for each level.
func TestWalkOnceSurvivesLoops(t *testing.T) {
	tb := newTables()
	root := tb.table()
	for i := range 512 {
		tb.set(root, i, uint64(root)|present|rw)
	}
	n := 0
	if err := SpaceAt(tb, root, 5).WalkOnce(0, ^mem.Virt(0), func(Mapping) bool { n++; return true }, nil); err != nil || n != 512 {
		t.Errorf("%d pages, %v", n, err)
	}
}

func TestWalkReportsLostTables(t *testing.T) {
	tb := newTables()
	root := tb.table()
	tb.set(root, 511, 0xdead_0000_0000|present)
	var from, to mem.Virt
	err := SpaceAt(tb, root, 4).Walk(0, ^mem.Virt(0), func(Mapping) bool { return true },
		func(f, t mem.Virt, _ error) { from, to = f, t })
	if err != nil || from != 0xffff_ff80_0000_0000 || to != ^mem.Virt(0) {
		t.Errorf("lost [%v, %v], error %v", from, to, err)
	}
}

// A cached space finds what one without does, however many addresses share the places
// in which it looks first.
func TestCachedTranslatesTheSame(t *testing.T) {
	tb := newTables()
	s := kernelLike(tb, 4)
	more := tb.table()
	tb.set(mem.Phys(0x10_2000), 10, uint64(more)|present|rw) // 0xffffffff81400000
	for i := range 512 {
		tb.set(more, i, uint64(0x80_0000+i*mem.PageSize)|present|rw)
	}
	cached := s.Cached()
	for range 2 {
		for at := mem.Virt(0xffff_ffff_8100_0000); at < 0xffff_ffff_8160_0000; at += mem.PageSize / 2 {
			want, err1 := s.Translate(at)
			got, err2 := cached.Translate(at)
			if got != want || (err1 == nil) != (err2 == nil) {
				t.Fatalf("%v: %+v (%v), without a cache %+v (%v)", at, got, err2, want, err1)
			}
			if big, err := cached.Phys(0xffff_ffff_4000_0000 + at&0x3fff_ffff); err != nil || big != 0x4000_0000+mem.Phys(at&0x3fff_ffff) {
				t.Fatalf("1 GiB: %v, %v", big, err)
			}
		}
	}
}

func TestReadAcrossPages(t *testing.T) {
	tb := newTables()
	root, pdpt, pd, pt := tb.table(), tb.table(), tb.table(), tb.table()
	tb.set(root, 0, uint64(pdpt)|present)
	tb.set(pdpt, 0, uint64(pd)|present)
	tb.set(pd, 0, uint64(pt)|present)
	tb.set(pt, 1, 0x9000|present)
	tb.set(pt, 2, 0x5000|present)
	tb.Write(0x9ffe, 'a', 'b')
	tb.Write(0x5000, 'c', 0)
	s := SpaceAt(tb, root, 4)
	for _, space := range []*Space{s, s.Cached()} {
		got, err := space.CString(0x1ffe, 100)
		if err != nil || got != "abc" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := space.CString(0x1ffe, 3); !errors.Is(err, ErrNoString) {
			t.Errorf("string past its limit: %v", err)
		}
		if err := space.Read(make([]byte, 0x2000), 0x1000); err != nil {
			t.Error(err)
		}
		for text, want := range map[string]bool{"abc\x00": true, "": true, "xbc": false, "abx": false} {
			if same, err := space.Equal([]byte(text), 0x1ffe); same != want || err != nil {
				t.Errorf("%q: equal %v, %v", text, same, err)
			}
		}
		if same, err := space.Equal(make([]byte, 0x11), 0x2ff0); same || !errors.Is(err, ErrNotPresent) {
			t.Errorf("past the last page: equal %v, %v", same, err)
		}
		if err := space.Read(make([]byte, 0x2001), 0x1000); !errors.Is(err, ErrNotPresent) {
			t.Errorf("read past the last page: %v", err)
		}
	}
	// A cached space keeps its translations, another one does not.
	cached := s.Cached()
	if _, err := cached.Phys(0x1000); err != nil {
		t.Fatal(err)
	}
	tb.set(pt, 1, 0)
	if _, err := cached.Phys(0x1000); err != nil {
		t.Errorf("cached translation was forgotten: %v", err)
	}
	if _, err := s.Phys(0x1000); !errors.Is(err, ErrNotPresent) {
		t.Errorf("translation was kept: %v", err)
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add(uint64(present|rw), uint64(0x20_0000|present|large), uint64(0xffff_ffff_8100_0000), true)
	f.Add(uint64(present|large), uint64(0), uint64(0), false)
	f.Fuzz(func(t *testing.T, e1, e2, at uint64, five bool) {
		tb := newTables()
		a, b := tb.table(), tb.table()
		for i := range 512 {
			e := e1
			if i%2 == 1 {
				e = e2
			}
			tb.set(a, i, e&^entryAddress|uint64(b))
			tb.set(b, i, e^uint64(i)<<12)
		}
		levels := 4
		if five {
			levels = 5
		}
		m, err := SpaceAt(tb, a, levels).Translate(mem.Virt(at))
		if (err == nil) == (m == Mapping{}) {
			t.Fatalf("mapping %+v and error %v", m, err)
		}
		if err == nil && (mem.Virt(at) < m.Virt || at-uint64(m.Virt) >= m.Size) {
			t.Fatalf("%#x is not in %+v", at, m)
		}
	})
}

// WalkOnce finds each page with each of its permissions that Walk finds, and
// nothing else.
func FuzzWalkOnce(f *testing.F) {
	f.Add([]byte{1, 0, 2, 1, 3, 2, 4, 3}, false)
	f.Add([]byte{1, 0, 1, 0x40, 2, 0x81, 2, 0xc1, 3, 0xff}, true)
	f.Fuzz(func(t *testing.T, raw []byte, five bool) {
		tb := newTables()
		var all [5]mem.Phys
		for i := range all {
			all[i] = tb.table()
		}
		for i := 0; i+1 < len(raw) && i < 60; i += 2 { // which table, and what is in it
			entry := uint64(all[raw[i+1]%5]) | uint64(raw[i+1]>>3&3)<<1 | present
			if raw[i+1]&0x80 != 0 {
				entry |= nx
			}
			if raw[i+1]&0x40 != 0 {
				entry |= large
			}
			tb.set(all[raw[i]%5], 500+i%12, entry)
		}
		s := SpaceAt(tb, all[0], 4)
		if five {
			s = SpaceAt(tb, all[0], 5)
		}
		type page struct {
			phys  mem.Phys
			size  uint64
			flags Flags
		}
		pages := func(walk func(from, to mem.Virt, visit func(Mapping) bool, lost func(from, to mem.Virt, err error)) error) (map[page]bool, error) {
			out := make(map[page]bool)
			return out, walk(0, ^mem.Virt(0), func(m Mapping) bool { out[page{m.Phys, m.Size, m.Flags}] = true; return true }, func(mem.Virt, mem.Virt, error) {})
		}
		want, err := pages(s.Walk)
		if err != nil {
			return // over its limit, which the other does not come to
		}
		got, err := pages(s.WalkOnce)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(page{})); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	})
}
