package graph

import (
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Of the modules below, whose attributes are a table of functions: offsets in
// struct module, and states (include/linux/module.h, enum module_state).
const (
	unliveState, unliveAttrs, unliveNext = 0, 8, 16
	unliveSize                           = 24

	live, coming, going, unformed = 0, 1, 2, 3
)

// Two modules. The first has a table of functions, freed and used by others by now;
// data of its own with a notifier that is called; and leads to the second.
const (
	firstModule, secondModule, madeForIt = heap, heap + 0x100, heap + 0x200
	itsData, notifierOfIt                = heap + 0x1000, heap + 0x1100
)

func withModules(t testing.TB) *fixture {
	t.Helper()
	f := newFixture()
	f.types = func() (*btf.Spec, error) {
		member := func(name string, at btf.Bits, t btf.Type) btf.Member {
			return btf.Member{Name: name, Type: t, Offset: at * 8}
		}
		function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
		attrs := &btf.Struct{Name: "module_attribute", Size: 8, Members: []btf.Member{member("free", 0, function)}}
		own := &btf.Struct{Name: "module", Size: unliveSize}
		own.Members = []btf.Member{member("state", unliveState, &btf.Int{Name: "unsigned int", Size: 4}),
			member("modinfo_attrs", unliveAttrs, &btf.Pointer{Target: attrs}), member("next", unliveNext, &btf.Pointer{Target: own})}
		return makeSpec(own)
	}
	f.put(firstModule+unliveNext, secondModule)
	f.put(f.global("reboot_notifier_list"), notifierOfIt)
	return f
}

// suspectsOf walks from the first module, with what looks wrong at a place, and
// returns how many were suspects and how many were set apart.
func (f *fixture) suspectsOf(t testing.TB, at uint64, change func()) (suspects, apart int) {
	t.Helper()
	f.put(at, text+5)
	modules := []kernel.LoadedModule{{Name: "first", At: firstModule, Areas: []kernel.Area{
		{Kind: kernel.AreaData, Start: itsData, Size: 0x800}, {Kind: kernel.AreaRodata, Start: itsData + 0x80, Size: 0x10}}}}
	r, err := Walk(t.Context(), f.profile(t), modules, wrongAre(change, text+5))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Odd) != 1 {
		t.Errorf("%d places look wrong", len(r.Odd))
	}
	return len(r.Suspects), len(r.Going)
}

// What a module that is not live leads to may be freed: it is set apart, neither a
// suspect nor none. The twins are the same pointers of modules that are live, and
// those that lie elsewhere.
func TestWalkSetsModulesApart(t *testing.T) {
	freed := func(f *fixture) uint64 { f.put(firstModule+unliveAttrs, madeForIt); return madeForIt }
	of2nd := func(f *fixture) uint64 { f.put(secondModule+unliveAttrs, madeForIt); return madeForIt }
	inIts := func(*fixture) uint64 { return notifierOfIt }
	other := func(f *fixture) uint64 { f.put(notifierOfIt+8, heap+0x4000); return heap + 0x4000 }
	beyond := func(f *fixture) uint64 { f.put(f.global("oom_notify_list"), heap+0x5000); return heap + 0x5000 }
	tests := map[string]struct {
		wrong         func(*fixture) uint64 // where it is
		first, second uint32                // states
		then          uint32                // of the first, when the way is read again
		apart         bool
	}{
		"of one that is live":                      {freed, live, live, live, false},
		"of one that is unloaded":                  {freed, going, live, going, true},
		"of one that is on its way":                {freed, coming, live, coming, true},
		"of one that is unformed":                  {freed, unformed, live, unformed, true},
		"of no state there is":                     {freed, 77, live, 77, true},
		"of one that goes while it is looked at":   {freed, live, live, going, true},
		"of one that was not live":                 {freed, coming, live, live, false},
		"of one that is live, while another goes":  {freed, live, going, live, false},
		"of one that only pointers lead to":        {of2nd, live, going, live, true},
		"of a live one that only pointers lead to": {of2nd, live, live, live, false},
		"in the data of one that is live":          {inIts, live, live, live, false},
		"in the data of one that is unloaded":      {inIts, going, live, going, true},
		"behind the data of one that is unloaded":  {other, going, live, going, true},
		"behind the data of one that is live":      {other, live, live, live, false},
		"elsewhere, while a module is unloaded":    {beyond, going, going, going, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := withModules(t)
			at := tt.wrong(f)
			f.put(firstModule+unliveState, uint64(tt.first))
			f.put(secondModule+unliveState, uint64(tt.second))
			suspects, apart := f.suspectsOf(t, at, func() { f.put(firstModule+unliveState, uint64(tt.then)) })
			if want := map[bool][2]int{false: {1, 0}, true: {0, 1}}[tt.apart]; [2]int{suspects, apart} != want {
				t.Errorf("%d suspects, %d set apart", suspects, apart)
			}
		})
	}
}
