package graph

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Of the types below: a module's number of tracepoints and their table, and a
// tracepoint's function that calls its probes, its static call's key, and them.
const (
	moduleCount, moduleTable               = 0, 8
	pointIterator, pointKey, pointFuncs    = 0, 8, 16
	module, distances, tracepoint1, probes = heap, heap + 0x100, heap + 0x200, heap + 0x300
	tracepoint2, callKey                   = heap + 0x280, heap + 0x380
)

// withTracepoints has a module with two tracepoints, of which the second has
// two probes. Entries of their table are 32-bit distances, or pointers.
func withTracepoints(entry btf.Type) *fixture {
	f := newFixture()
	f.types = func() (*btf.Spec, error) {
		void := &btf.Pointer{Target: (*btf.Void)(nil)}
		member := func(name string, at btf.Bits, t btf.Type) btf.Member {
			return btf.Member{Name: name, Type: t, Offset: at * 8}
		}
		probe := &btf.Struct{Name: "tracepoint_func", Size: 24, Members: []btf.Member{member("func", 0, void), member("data", 8, void)}}
		key := &btf.Struct{Name: "static_call_key", Size: 16, Members: []btf.Member{member("func", 0, void)}}
		point := &btf.Struct{Name: "tracepoint", Size: 24, Members: []btf.Member{member("iterator", pointIterator, void),
			member("static_call_key", pointKey, &btf.Pointer{Target: key}), member("funcs", pointFuncs, &btf.Pointer{Target: probe})}}
		if entry == nil {
			entry = &btf.Pointer{Target: point}
		}
		name := &btf.Typedef{Name: "tracepoint_ptr_t", Type: &btf.Const{Type: entry}}
		return makeSpec(point, &btf.Struct{Name: "module", Size: 16, Members: []btf.Member{
			member("num_tracepoints", moduleCount, &btf.Int{Name: "unsigned int", Size: 4}), member("tracepoints_ptrs", moduleTable, &btf.Pointer{Target: name})}})
	}
	f.put(module+moduleCount, 2)
	f.put(module+moduleTable, distances)
	f.put(tracepoint1+pointIterator, text)
	f.put(tracepoint2+pointIterator, text+16)
	f.put(tracepoint2+pointKey, callKey)
	f.put(callKey, text+32)
	f.put(tracepoint2+pointFuncs, probes)
	f.put(probes, text+48)
	f.put(probes+24, text+64)
	return f
}

// distance is what an entry of the table leads to an address with.
func distance(entry, to uint64) uint64 { return uint64(uint32(to - entry)) }

func (f *fixture) distances(first, second uint64) {
	f.put(distances, distance(distances, first)|distance(distances+4, second)<<32)
}

var int32Type = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}

func (f *fixture) walkModule(t *testing.T) *Result {
	t.Helper()
	r, err := Walk(t.Context(), f.profile(t), []kernel.LoadedModule{{Name: "m", At: module}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWalkReachesTracepointsOfModules(t *testing.T) {
	byDistance, byPointer := withTracepoints(int32Type), withTracepoints(nil)
	byDistance.distances(tracepoint1, tracepoint2)
	byPointer.put(distances, tracepoint1)
	byPointer.put(distances+8, tracepoint2)
	want := map[string]uint64{
		"module m.tracepoints_ptrs[0].iterator":              text,
		"module m.tracepoints_ptrs[1].iterator":              text + 16,
		"module m.tracepoints_ptrs[1].static_call_key->func": text + 32,
		"module m.tracepoints_ptrs[1].funcs[0].func":         text + 48,
		"module m.tracepoints_ptrs[1].funcs[1].func":         text + 64,
	}
	for name, f := range map[string]*fixture{"distances": byDistance, "pointers": byPointer} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, found(f.walkModule(t))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a hostile module claims ends the walk of it with a word about why, and
// the rest is walked.
func TestWalkOfHostileTracepoints(t *testing.T) {
	tests := map[string]struct {
		change func(*fixture)
		says   string
		found  int
	}{
		"no room for that many":   {func(f *fixture) { f.put(module+moduleCount, maxTracepoints+1) }, "impossible number of elements", 0},
		"four billion":            {func(f *fixture) { f.put(module+moduleCount, 0xffff_ffff) }, "impossible number of elements", 0},
		"a table nowhere":         {func(f *fixture) { f.put(module+moduleTable, after+0x10_0000) }, "arrays in memory that could not be read", 0},
		"a table in user space":   {func(f *fixture) { f.put(module+moduleTable, 0x1000) }, "arrays in memory that could not be read", 0},
		"a table that wraps":      {func(f *fixture) { f.put(module+moduleTable, ^uint64(3)) }, "arrays in memory that could not be read", 0},
		"a tracepoint in text":    {func(f *fixture) { f.distances(text, tracepoint2) }, "distances that lead to no object", 4},
		"a tracepoint off a word": {func(f *fixture) { f.distances(tracepoint1+1, tracepoint2) }, "distances that lead to no object", 4},
		"a tracepoint nowhere":    {func(f *fixture) { f.distances(after+0x10_0000, tracepoint2) }, "objects in memory that could not be read", 4},
		"probes nowhere":          {func(f *fixture) { f.put(tracepoint2+pointFuncs, after+0x10_0000) }, "arrays in memory that could not be read", 3},
		"probes without an end": {func(f *fixture) {
			for at := uint64(probes); at < probes+24*(maxTerminated+1); at += 24 {
				f.put(at, text)
			}
		}, "arrays without an end", 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := withTracepoints(int32Type)
			f.distances(tracepoint1, tracepoint2)
			tt.change(f)
			r := f.walkModule(t)
			if !slices.ContainsFunc(r.NotWalked, func(s string) bool { return strings.Contains(s, tt.says) }) {
				t.Errorf("does not say %q: %q", tt.says, r.NotWalked)
			}
			if got := len(found(r)); got != tt.found {
				t.Errorf("found %d pointers, want %d: %v", got, tt.found, found(r))
			}
		})
	}
}
