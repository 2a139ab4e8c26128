package graph

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// crowd makes super blocks with inodes, most of which lead to nothing new: some
// have a table of their own, and one leads to no table.
func crowd(t *testing.T) *fixture {
	t.Helper()
	f := newFixture()
	f.link(f.global("super_blocks"), heap+superList, heap+0x40+superList)
	tables := uint64(heap + 0x7000)
	for super := range uint64(2) {
		var inodes []uint64
		for i := range uint64(150) {
			at := heap + 0x1000 + super*0x3000 + i*inodeSize
			inodes = append(inodes, at+inodeList)
			f.put(at+inodeFop, tables+i/50*16)
			f.put(tables+i/50*16, text+i/50*64)
		}
		f.put(inodes[70]-inodeList+inodeFop, text+5+super)
		f.link(heap+0x40*super+superInodes, inodes...)
		f.put(heap+0x40*super+superOps, tables+0x100)
	}
	f.put(tables+0x100+8, text+1024)
	f.put(f.global("reboot_notifier_list"), heap+0x80)
	f.put(heap+0x80, text+2048)
	f.put(heap+0x88, heap+0xc0)
	f.put(heap+0xc0, text+5)
	return f
}

// walkWithin walks with other limits.
func (f *fixture) walkWithin(t *testing.T, change func(*limits)) (*walker, *Result) {
	t.Helper()
	p := f.profile(t)
	schema := newSchema(p)
	w := newWalker(t.Context(), p, schema, schema.borrow(), nil)
	change(&w.limits)
	w.start(nil)
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	r := &Result{Pointers: w.found(w.targets), Programs: w.found(w.programs)}
	w.result(r)
	return w, r
}

// TestForgetfulWalkFindsTheSame holds a walk that keeps the bytes of a few pages,
// and forgets objects that lead nowhere, against one that keeps all.
func TestForgetfulWalkFindsTheSame(t *testing.T) {
	f := crowd(t)
	all, want := f.walkWithin(t, func(*limits) {})
	if want.Objects < 300 || want.Limited || len(want.Pointers) != 6 {
		t.Fatalf("the crowd is none: %+v", want)
	}
	few, got := f.walkWithin(t, func(l *limits) { l.plain, l.held = 0, maxNested+1 })
	if diff := cmp.Diff(want.Pointers, got.Pointers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(all.suspected(all.suspects), few.suspected(few.suspects)); diff != "" || len(few.suspects) != 2 {
		t.Errorf("%d suspects: %s", len(few.suspects), diff)
	}
	if got.Limited || got.Objects != want.Objects || got.Reached != want.Reached || got.Filled != want.Filled {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(few.nodes)*10 > len(all.nodes) {
		t.Errorf("keeps %d of %d objects", len(few.nodes), len(all.nodes))
	}
}

// TestReaderReadsAgain wants pages whose bytes were given up to be read again, and
// none to be given up that somebody looks at.
func TestReaderReadsAgain(t *testing.T) {
	f := newFixture()
	for i := range uint64(8) {
		f.put(heap+i*mem.PageSize, 100+i)
	}
	l := limitsFor(0)
	l.held = 3
	r := newReader(f.profile(t).Space, &scratch{frames: newFrames()}, l)
	looked, err := r.page(heap)
	if err != nil {
		t.Fatal(err)
	}
	pinned := r.latest
	pinned.pins++
	for range 3 {
		for i := range uint64(8) {
			if got, err := r.u64(heap + i*mem.PageSize); err != nil || got != 100+i {
				t.Errorf("page %d: %d, %v", i, got, err)
			}
		}
		if !r.unreadable(after) {
			t.Error("there is memory where none is")
		}
	}
	if looked[0] != 100 || len(r.chunks) != 1 || len(r.held) != 3 {
		t.Errorf("%d in a page that is looked at; %d chunks for %d pages", looked[0], len(r.chunks), len(r.held))
	}
	pinned.pins--
	if got, err := r.u64(heap + mem.PageSize - 4); err != nil || got != 101<<32 {
		t.Errorf("across pages: %#x, %v", got, err)
	}
}

// Limits follow the RAM of a target between a floor and a ceiling.
func TestLimitsFollowRAM(t *testing.T) {
	const gib = 1 << 30
	small, large, huge := limitsFor(gib/2), limitsFor(64*gib), limitsFor(1<<60)
	if small.objects != minObjects || small.nodes != minNodes || small.frames != minFrames {
		t.Errorf("small: %+v", small)
	}
	if large.objects != 64<<20 || huge.objects != maxObjects || huge.nodes != maxNodes || huge.frames != maxFrames || huge.held != maxHeld {
		t.Errorf("large %+v, huge %+v", large, huge)
	}
}
