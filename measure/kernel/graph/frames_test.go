package graph

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TestFramesAreASet holds a table of pages against a plain map: objects of few and
// of many types in one page, and more pages than the table begins with.
func TestFramesAreASet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	types := make([]*Type, 3*maxMarks)
	for i := range types {
		types[i] = &Type{}
	}
	f, want := newFrames(), make(map[visit]bool)
	for round := range 2 {
		for range 200_000 {
			page := uint64(0xffff_8880_0000_0000) + random.Uint64N(40_000)*mem.PageSize
			few := 3
			if random.IntN(4) == 0 {
				page, few = 0xffff_ffff_8100_0000, len(types)
			}
			v := visit{page + random.Uint64N(mem.PageSize/8)*8, types[random.IntN(few)]}
			if has := f.has(v.at, v.typ); has != want[v] {
				t.Fatalf("round %d: has %#x: %v, want %v", round, v.at, has, want[v])
			}
			if random.IntN(2) == 0 {
				continue
			}
			if added := f.add(v.at, v.typ); added == want[v] {
				t.Fatalf("round %d: add %#x: %v", round, v.at, added)
			}
			want[v] = true
		}
		if f.full {
			t.Error("the table is full")
		}
		f.clear()
		clear(want)
	}
}

// TestFullFramesAreTold fills the table: the walk then has to say that it saw less
// than there is.
func TestFullFramesAreTold(t *testing.T) {
	f, typ := newFrames(), &Type{}
	for i := range uint64(minFrames) {
		f.add(i*mem.PageSize, typ)
	}
	if f.full {
		t.Fatal("full too early")
	}
	f.add(minFrames*mem.PageSize, typ)
	if !f.full || f.has(minFrames*mem.PageSize, typ) || !f.has(0, typ) {
		t.Error("one page more than the limit was not told, or took the place of another")
	}
}

// TestPagesOverTheLimitLimitTheWalk wants a walk that may read no more pages to say
// so: what it did not read is not measured.
func TestPagesOverTheLimitLimitTheWalk(t *testing.T) {
	fixture := newFixture()
	r := newReader(fixture.profile(t).Space, &scratch{frames: newFrames()}, limitsFor(0))
	if _, err := r.u64(heap); err != nil || r.full {
		t.Fatalf("%v, full %v", err, r.full)
	}
	r.asked = r.limits.reads
	if _, err := r.u64(heap + mem.PageSize); !errors.Is(err, errTooMuch) || !r.full {
		t.Errorf("error %v, full %v", err, r.full)
	}
	if _, err := r.u64(heap); err != nil {
		t.Errorf("a page that was read: %v", err)
	}
}
