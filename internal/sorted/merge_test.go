package sorted

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// listRun is a run in memory; after its entries comes err.
type listRun struct {
	entries [][]byte
	err     error
}

func (l *listRun) Next() ([]byte, error) {
	if len(l.entries) == 0 {
		return nil, l.err
	}
	e := l.entries[0]
	l.entries = l.entries[1:]
	return e, nil
}

// What is merged, in whatever order, is all that the runs have, in that order.
func TestMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	backwards := func(a, b []byte) int { return bytes.Compare(b, a) }
	for _, compare := range []func(a, b []byte) int{bytes.Compare, backwards} {
		for n := range 20 {
			var runs []Run
			var want [][]byte
			for range n {
				var entries [][]byte
				for range random.IntN(30) { // some have none
					entries = append(entries, []byte{byte(random.IntN(50)), byte(random.IntN(3))})
				}
				slices.SortFunc(entries, compare)
				want = append(want, entries...)
				runs = append(runs, &listRun{entries: entries})
			}
			slices.SortFunc(want, compare)
			var got [][]byte
			if err := Merge(runs, compare, func(e []byte) error { got = append(got, e); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("%d runs: %x, want %x", n, got, want)
			}
		}
	}
}

// Errors of a run and of who is given the entries end it.
func TestMergeEndsWithAnError(t *testing.T) {
	bad := errors.New("bad")
	entries := func() [][]byte { return [][]byte{{1}, {3}} }
	ignore := func([]byte) error { return nil }
	for name, err := range map[string]error{
		"at once":        Merge([]Run{&listRun{entries: entries()}, &listRun{err: bad}}, bytes.Compare, ignore),
		"in the middle":  Merge([]Run{&listRun{entries: entries()}, &listRun{[][]byte{{2}}, bad}}, bytes.Compare, ignore),
		"of the visitor": Merge([]Run{&listRun{entries: entries()}}, bytes.Compare, func([]byte) error { return bad }),
	} {
		if !errors.Is(err, bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
