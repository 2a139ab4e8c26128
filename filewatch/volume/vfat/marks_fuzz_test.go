package vfat

import (
	"bytes"
	"slices"
	"testing"
)

// What is kept of an earlier moment: marks or an error, and whatever they say, what
// changed since is an answer.
func FuzzMarks(f *testing.F) {
	f.Add((&moment{places: []uint64{100, 101, 1 << 20}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		was, err := parseMarks(b)
		if (was == nil) == (err == nil) {
			t.Fatalf("%v and %v", was, err)
		}
		if err != nil {
			return
		}
		if back, err := parseMarks(was.append(nil)); err != nil || !slices.Equal(back.places, was.places) {
			t.Fatalf("%v came back as %v, %v", was, back, err)
		}
		v := &Volume{now: func() (*moment, error) { return &moment{shape: was.shape, places: []uint64{100}}, nil }}
		if _, inodes, _, err := v.Changed(b, nil); err != nil || !slices.IsSorted(inodes) || len(inodes) < len(was.places) {
			t.Fatalf("%d inodes of %d, %v", len(inodes), len(was.places), err)
		}
		if cut := bytes.Clone(b[:len(b)-1]); len(cut) < 32 {
			if _, err := parseMarks(cut); err == nil {
				t.Fatal("marks without their shape are taken")
			}
		}
	})
}
