package graph

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wrongAre says that these values look wrong, after something was changed: what
// the target does between a walk and the reading of the way again.
func wrongAre(change func(), values ...uint64) *Suspicion {
	return &Suspicion{Wrong: func([]Pointer, []Pointer) map[uint64]bool {
		out := make(map[uint64]bool)
		for _, v := range values {
			out[v] = true
		}
		if change != nil {
			change()
		}
		return out
	}}
}

func (f *fixture) suspects(t testing.TB, wrong *Suspicion) *Result {
	t.Helper()
	r, err := Walk(t.Context(), f.profile(t), nil, wrong)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// oneInode makes a super block with one inode at heap+0x100.
func oneInode() *fixture {
	f := newFixture()
	f.link(f.global("super_blocks"), heap+superList)
	f.link(heap+superInodes, heap+0x100+inodeList)
	return f
}

// A pointer to a table of functions that leads to what is none is a suspect
// itself, where it is stored, and nothing is read out of what it leads to.
func TestWalkSuspectsTables(t *testing.T) {
	tests := map[string]uint64{
		"in text":              text + 0x40, // what an inode holds that waits to be freed
		"in no memory":         after + 0x1000,
		"in a process":         0x7f00_0000_1000,
		"not a number of ours": 0xdead_0000_0000_0100,
	}
	for name, value := range tests {
		t.Run(name, func(t *testing.T) {
			f := oneInode()
			f.put(heap+0x100+inodeFop, value)
			f.put(text+0x40, text+0x80)
			f.put(text+0x48, heap+5)
			r := f.suspects(t, wrongAre(nil))
			want := []Suspect{{Place: Place{heap + 0x100 + inodeFop, value, true}, Path: "super_blocks[0].s_inodes[0].i_fop"}}
			if diff := cmp.Diff(want, r.Suspects); diff != "" {
				t.Error(diff)
			}
			if len(r.Pointers) != 0 {
				t.Errorf("functions were read out of no table: %+v", r.Pointers)
			}
		})
	}
}

// Each object with such a pointer is a suspect, not only the first.
func TestWalkSuspectsEachTable(t *testing.T) {
	f := newFixture()
	f.link(f.global("super_blocks"), heap+superList)
	f.link(heap+superInodes, heap+0x100+inodeList, heap+0x200+inodeList)
	f.put(heap+0x100+inodeFop, text+0x40)
	f.put(heap+0x200+inodeFop, text+0x40)
	if r := f.suspects(t, wrongAre(nil)); len(r.Suspects) != 2 {
		t.Errorf("suspects %+v", r.Suspects)
	}
}

// Tables that are, and error numbers in their place, are no suspects.
func TestWalkSuspectsNoTable(t *testing.T) {
	for name, value := range map[string]uint64{"none": 0, "a table": heap + 0x300, "an error number": ^uint64(0) - 21} {
		f := oneInode()
		f.put(heap+0x100+inodeFop, value)
		f.put(heap+0x300, text)
		if r := f.suspects(t, wrongAre(nil)); len(r.Suspects) != 0 {
			t.Errorf("%s: %+v", name, r.Suspects)
		}
	}
}

// Where a function is stored that looks wrong is told for each place.
func TestWalkSuspectsFunctions(t *testing.T) {
	f := newFixture()
	f.put(f.global("reboot_notifier_list"), heap)
	f.put(heap, text+5)
	f.put(heap+8, heap+0x100)
	f.put(heap+0x100, text+5)
	want := []Suspect{
		{Place: Place{At: heap, Value: text + 5}, Path: "reboot_notifier_list.head->notifier_call"},
		{Place: Place{At: heap + 0x100, Value: text + 5}, Path: "reboot_notifier_list.head->next->notifier_call"},
	}
	if diff := cmp.Diff(want, f.suspects(t, wrongAre(nil, text+5)).Suspects); diff != "" {
		t.Error(diff)
	}
}

// What a walk came by and the target then gave up is no suspect: the way to it is
// read again. The twin of each is a change elsewhere, after which it still is one.
func TestWalkReadsTheWayAgain(t *testing.T) {
	hook := func() *fixture { // an inode with a table whose function is wrong
		f := oneInode()
		f.put(heap+0x100+inodeFop, heap+0x300)
		f.put(heap+0x300, text+5)
		return f
	}
	tests := map[string]struct {
		change func(*fixture)
		torn   bool
	}{
		"nothing":                     {func(*fixture) {}, false},
		"another inode before it":     {func(f *fixture) { f.link(heap+superInodes, heap+0x200+inodeList, heap+0x100+inodeList) }, false},
		"another member of the inode": {func(f *fixture) { f.put(heap+0x100+24, heap+0x400) }, false},
		"the function was put right":  {func(f *fixture) { f.put(heap+0x300, text) }, true},
		"the inode has another table": {func(f *fixture) { f.put(heap+0x100+inodeFop, heap+0x400) }, true},
		"the inode left its list":     {func(f *fixture) { f.link(heap + superInodes) }, true},
		"another took its place":      {func(f *fixture) { f.link(heap+superInodes, heap+0x200+inodeList) }, true},
		"the file system is gone":     {func(f *fixture) { f.link(vars) }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := hook()
			r := f.suspects(t, wrongAre(func() { tt.change(f) }, text+5))
			if torn := len(r.Suspects) == 0; torn != tt.torn || torn != (r.Torn == 1) {
				t.Errorf("suspects %+v, torn %d", r.Suspects, r.Torn)
			}
		})
	}
}

// Where earlier walks found something, other places are no suspects.
func TestWalkSuspectsAmong(t *testing.T) {
	f := newFixture()
	f.put(f.global("reboot_notifier_list"), heap)
	f.put(heap, text+5)
	f.put(heap+8, heap+0x100)
	f.put(heap+0x100, text+5)
	wrong := wrongAre(nil, text+5)
	wrong.Among = map[Place]bool{{At: heap + 0x100, Value: text + 5}: true, {At: heap, Value: text + 9}: true}
	r := f.suspects(t, wrong)
	if len(r.Odd) != 2 || len(r.Suspects) != 1 || r.Suspects[0].At != heap+0x100 || r.Torn != 0 {
		t.Errorf("%+v of %+v, torn %d", r.Suspects, r.Odd, r.Torn)
	}
}

// A walk does not hold more suspects than it may, and says that it did not.
func TestWalkLimitsSuspects(t *testing.T) {
	w := &walker{why: make(map[string]int64)}
	for i := range maxSuspects + 1 {
		w.suspect(slot{at: uint64(i)})
	}
	if len(w.suspects) != maxSuspects || !w.limited {
		t.Errorf("%d suspects, limited %v", len(w.suspects), w.limited)
	}
}
