package graph

import (
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A pointer that looks wrong is no suspect where the allocator says that its
// object is free; the twins are the same object while it lives.
func TestWalkSuspectsNothingFree(t *testing.T) {
	const object, other, third = theSlab + 2*slotSize, theSlab + 5*slotSize, theSlab + 9*slotSize
	tests := map[string]struct {
		types func() (*btf.Spec, error)
		build func(*fixture)
		free  bool
	}{
		"nothing is free":             {specWithLists, func(*fixture) {}, false},
		"others are free":             {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, third)) }, false},
		"on the slab's list":          {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, object, third)) }, true},
		"at the end of it":            {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, third, object)) }, true},
		"on the list of a CPU":        {specWithLists, func(f *fixture) { f.onCPU(thePage, f.freed(other, object)) }, true},
		"a CPU has another slab":      {specWithLists, func(f *fixture) { f.onCPU(thePage+64, f.freed(other, object)) }, false},
		"a list in a circle":          {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, third, other)) }, false},
		"a list that leads nowhere":   {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, after+slotSize, object)) }, false},
		"a list into the middle":      {specWithLists, func(f *fixture) { f.put(thePage+32, f.freed(other, object+8)) }, false},
		"sheaves without it":          {specWithSheaves, func(f *fixture) { f.put(theCPU+0x108, f.sheaf(theBarn, other, third)) }, false},
		"on the slab's list, 7.x":     {specWithSheaves, func(f *fixture) { f.put(thePage+32, f.freed(other, object)) }, true},
		"in a CPU's sheaf":            {specWithSheaves, func(f *fixture) { f.put(theCPU+0x108, f.sheaf(theBarn, other, object)) }, true},
		"in its spare one":            {specWithSheaves, func(f *fixture) { f.put(theCPU+0x110, f.sheaf(theBarn, object)) }, true},
		"in the one that RCU empties": {specWithSheaves, func(f *fixture) { f.put(theCPU+0x118, f.sheaf(theBarn, object)) }, true},
		"behind the end of a sheaf": {specWithSheaves, func(f *fixture) {
			f.put(theCPU+0x108, f.sheaf(theBarn, other, object))
			f.put(theBarn+24, 1)
		}, false},
		"in a sheaf of impossible size": {specWithSheaves, func(f *fixture) {
			f.put(theCPU+0x108, f.sheaf(theBarn, other, object))
			f.put(theBarn+24, 1<<31)
		}, false},
		"in a node's full sheaf": {specWithSheaves, func(f *fixture) {
			f.put(theCache+208, theBarn)
			f.link(theBarn+8, f.sheaf(theBarn+0x100, other), f.sheaf(theBarn+0x200, third, object))
		}, true},
		"full sheaves in a circle": {specWithSheaves, func(f *fixture) {
			f.put(theCache+208, theBarn)
			f.put(theBarn+8, f.sheaf(theBarn+0x100, other))
			f.put(theBarn+0x100, theBarn+0x100)
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture().slabs(tt.types)
			f.link(f.global("super_blocks"), heap+superList)
			f.link(heap+superInodes, object+inodeList)
			f.put(object+inodeFop, heap+0x300)
			f.put(heap+0x300, text+5)
			tt.build(f)
			r := f.suspects(t, wrongAre(nil, text+5))
			if free := len(r.Suspects) == 0; free != tt.free || free != (r.Freed == 1) {
				t.Errorf("suspects %+v, %d free; not walked %q", r.Suspects, r.Freed, r.NotWalked)
			}
		})
	}
}

// With slab_debug objects lie behind a red zone each, unless their cache gave that
// up because they would have got too large.
func TestWalkFindsObjectsBehindRedZones(t *testing.T) {
	const place, pad, redZone = 2 * slotSize, slotSize, 0x400
	for name, tt := range map[string]struct {
		flags, object uint64
		free          bool
	}{
		"behind it":          {redZone, theSlab + 2*place + pad, true},
		"given up":           {0, theSlab + 2*place, true},
		"in the red zone":    {redZone, theSlab + 2*place, false},
		"before all objects": {redZone, theSlab, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture().slabs(specWithLists)
			f.put(theCache+8, tt.flags)
			f.put(theCache+24, place|inodeSize<<32)
			f.put(theCache+40, linkAt|pad<<32)
			f.put(thePage+40, mem.PageSize/place<<16)
			f.link(f.global("super_blocks"), heap+superList)
			f.link(heap+superInodes, tt.object+inodeList)
			f.put(tt.object+inodeFop, heap+0x300)
			f.put(heap+0x300, text+5)
			f.put(thePage+32, f.freed(tt.object))
			r := f.suspects(t, wrongAre(nil, text+5))
			if free := len(r.Suspects) == 0 && r.Freed == 1; free != tt.free {
				t.Errorf("suspects %+v, %d free; not walked %q", r.Suspects, r.Freed, r.NotWalked)
			}
		})
	}
}

// onCPU gives a CPU the list of a slab.
func (f *fixture) onCPU(page, first uint64) {
	f.put(theCPU+0x100, first)
	f.put(theCPU+0x110, page)
}

// Nor is a pointer to a table in a free object, such as an inode's that was left
// there when it was freed.
func TestWalkSuspectsNoTableInFree(t *testing.T) {
	const object = theSlab + 2*slotSize
	for _, free := range []bool{false, true} {
		f := newFixture().slabs(specWithLists)
		f.link(f.global("super_blocks"), heap+superList)
		f.link(heap+superInodes, object+inodeList)
		f.put(object+inodeFop, text+0x40)
		if free {
			f.put(thePage+32, f.freed(object))
		}
		if r := f.suspects(t, wrongAre(nil)); (len(r.Suspects) == 0) != free {
			t.Errorf("free %v: suspects %+v, %d free", free, r.Suspects, r.Freed)
		}
	}
}

// An array in an object of the allocator has no more elements than fit in there:
// what says so is garbage. The twin has as many as fit.
func TestWalkArraysEndWithTheirObject(t *testing.T) {
	const array = theSlab + 2*slotSize
	for count, want := range map[uint64]int{slotSize / 8: 1, slotSize/8 + 1: 0} {
		f := newFixture().slabs(specWithLists)
		f.put(f.global("init_nsproxy"), heap)
		f.put(heap, count) // max_fds
		f.put(heap+8, array)
		f.put(array+slotSize-8, heap+0x100) // the last that fits
		f.put(heap+0x100, heap+0x300)       // f_op
		f.put(heap+0x300, text)
		if r := f.walk(t); len(r.Pointers) != want {
			t.Errorf("%d elements: %+v, %q", count, r.Pointers, r.NotWalked)
		}
	}
}
