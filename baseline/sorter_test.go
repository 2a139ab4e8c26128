package baseline

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Records come in order whatever their paths have in common: long beginnings, one
// being the beginning of another, or all of them.
func TestSorterOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	path := func() string {
		b := bytes.Repeat([]byte("/usr/share"), random.IntN(4))
		for range random.IntN(20) {
			b = append(b, "/a\x01\x7f\xff"[random.IntN(5)])
		}
		return string(b)
	}
	s := newSorter(t.TempDir())
	defer s.close()
	var want [][]byte
	var scratch []byte
	for i := range 20_000 {
		r := &Record{Object: filewatch.Object{Volume: []string{"", "v"}[i%2], Inode: uint64(random.IntN(100)), Type: filewatch.TypeFile}, Names: []string{path()}}
		encoded := appendRecord(nil, r, &scratch)
		want = append(want, encoded)
		if err := s.add(encoded); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(want, compareEncoded)
	i := 0
	err := s.each(func(encoded []byte) error {
		if compareEncoded(encoded, want[i]) != 0 {
			t.Fatalf("record %d is %q, want %q", i, encoded, want[i])
		}
		i++
		return nil
	})
	if err != nil || i != len(want) {
		t.Errorf("%d records of %d: %v", i, len(want), err)
	}
}
