package check

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Of the tables below, as espfix_64.c makes them: one of each level, in which the
// lower ones and the page are wherever there is room.
const (
	espfixUpper, espfixMiddle, espfixLower = 0x8000, 0x9000, 0xa000
	espfixStack, espfixOther               = 0xe000, 0xf000
	tableEntry, pageEntry                  = 1 | 1<<63, 1 | 1<<63 // read-only, not executable
)

func (m *tableMemory) set(table uint64, index int, entry uint64) {
	binary.LittleEndian.PutUint64(m[table+uint64(index)*8:], entry)
}

// withEspfix has the area, and espfix_pages in the page that is its only stack.
func withEspfix(change func(*tableMemory)) *tableWalk {
	const root, pages = 0x1000, 0xffff_ffff_8100_0000
	var m tableMemory
	m.maps(root, 0x5000, espfixStack)
	m.set(espfixStack, 0, pages)
	m.set(root, 510, espfixUpper|3)
	for i := range 4 {
		m.set(espfixUpper, 4+i, espfixMiddle|tableEntry)
	}
	for i := range 512 {
		m.set(espfixMiddle, i, espfixLower|tableEntry)
	}
	for i := range 32 {
		m.set(espfixLower, 16*i+5, espfixStack|pageEntry)
	}
	if change != nil {
		change(&m)
	}
	space := paging.SpaceAt(&m, root, 4)
	symbols := kernel.NewSymbols([]kernel.Symbol{{Name: "espfix_pages", Addr: pages}, {Name: "espfix_init_mutex", Addr: pages + 16}})
	w := &tableWalk{collector: &collector{ctx: context.Background(), profile: &kernel.Profile{Space: space, Symbols: symbols}, space: space.Cached()}}
	w.protect()
	return w
}

func TestEspfixArea(t *testing.T) {
	area := func(virt address, size uint64, phys mem.Phys) []mappedRange {
		return []mappedRange{{Start: virt, Size: size, Phys: phys}}
	}
	const first = address(espfixFirst)
	const stack = first + 4<<30 + 5*mem.PageSize
	tests := map[string]struct {
		change func(*tableMemory)
		want   espfixFacts
	}{
		"as the kernel makes it": {nil, espfixFacts{Pages: 32}},
		"none":                   {func(m *tableMemory) { m.set(0x1000, 510, 0) }, espfixFacts{}},
		"a page of another": {func(m *tableMemory) { m.set(espfixLower, 7, espfixOther|pageEntry) },
			espfixFacts{Pages: 33, Others: area(first+4<<30+7*mem.PageSize, 0x1000, espfixOther)}},
		"in all places": {func(m *tableMemory) {
			for i := range 32 {
				m.set(espfixLower, 16*i+7, espfixOther|pageEntry)
			}
		}, espfixFacts{Pages: 64, Others: area(first+4<<30+7*mem.PageSize, 0x1000, espfixOther)}},
		"a writable page, whose tables are not": {func(m *tableMemory) { m.set(espfixLower, 5, espfixStack|pageEntry|2) }, espfixFacts{Pages: 32}},
		"a writable way to it": {func(m *tableMemory) {
			m.set(espfixLower, 5, espfixStack|pageEntry|2)
			m.set(espfixMiddle, 3, espfixLower|tableEntry|2)
			m.set(espfixUpper, 6, espfixMiddle|tableEntry|2)
		}, espfixFacts{Pages: 64, Writable: area(first+6<<30+3<<21+5*mem.PageSize, 0x1000, espfixStack)}},
		"a page of 1 GiB": {func(m *tableMemory) { m.set(espfixUpper, 0, 0|pageEntry|1<<7) },
			espfixFacts{Pages: 33, Others: area(first, 1<<30, 0)}},
		"pages nowhere": {func(m *tableMemory) { m.set(espfixStack, 0, 0x1000) },
			espfixFacts{Pages: 32, Unknown: "espfix_pages: translate 0x1000: PML4 entry: page not present"}},
		"no pages at all": {func(m *tableMemory) { m.set(espfixStack, 0, 0) },
			espfixFacts{Pages: 32, Others: area(stack, 0x1000, espfixStack)}},
		"an executable way": {func(m *tableMemory) {
			m.set(espfixLower, 5, espfixStack|1)
			m.set(espfixMiddle, 0, espfixLower|1)
			m.set(espfixUpper, 4, espfixMiddle|1)
		}, espfixFacts{Pages: 64}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := withEspfix(tt.change)
			if err := w.espfix(nil); err != nil || w.err != nil {
				t.Fatal(err, w.err)
			}
			if diff := cmp.Diff(tt.want, w.data.Espfix); diff != "" {
				t.Error(diff)
			}
			if executable := name == "an executable way"; executable != (len(w.data.Executable) > 0) {
				t.Errorf("executable: %+v", w.data.Executable)
			}
		})
	}
}

// With page-table isolation and five levels a process has a copy of the entry for
// the area (pti_setup_espfix64, arch/x86/mm/pti.c): the same tables.
func TestSameEspfix(t *testing.T) {
	tests := map[string]struct {
		change func(*tableMemory) // of the tables at 0x2000, which have a copy
		same   bool
	}{
		"a copy": {func(*tableMemory) {}, true},
		"none":   {func(m *tableMemory) { m.set(0x2000, 510, 0) }, true},
		"the same page with more rights": {func(m *tableMemory) {
			m.set(0x2000, 510, 0xb000|3)
			m.set(0xb000, 4, 0xc000|3)
			m.set(0xc000, 0, 0xd000|3)
			m.set(0xd000, 5, espfixStack|3)
		}, false},
		"another page": {func(m *tableMemory) {
			m.set(0x2000, 510, 0xb000|3)
			m.set(0xb000, 4, 0xc000|tableEntry)
			m.set(0xc000, 0, 0xd000|tableEntry)
			m.set(0xd000, 5, espfixOther|pageEntry)
		}, false},
		"a large page": {func(m *tableMemory) { m.set(0x2000, 510, 0xb000|3); m.set(0xb000, 4, 0|pageEntry|1<<7) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := withEspfix(func(m *tableMemory) {
				m.set(0x2000, 510, espfixUpper|3)
				tt.change(m)
			})
			if same, err := w.sameEspfix(paging.SpaceAt(w.profile.Space.Memory(), 0x2000, 4)); err != nil || same != tt.same {
				t.Errorf("%t, %v", same, err)
			}
		})
	}
}
