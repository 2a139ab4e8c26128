package xfs

import (
	"bytes"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// What is kept of an earlier moment: marks or an error, and whatever they say, what
// changed since is an answer in bounded time.
func FuzzMarks(f *testing.F) {
	f.Add((&marks{
		chunks:  []chunk{{first: 64, free: 5}, {first: 128, holes: 3}},
		sectors: []sectorMark{{number: 9, sum: [16]byte{7}}, {number: 12}},
		inodes:  []uint64{64, 131},
	}).append(nil))
	s := &super{blockSize: 1024, blocks: 4096, inodeSize: 512, inodesBlkLog: 1, agBlkLog: 12, agBlocks: 4096, agCount: 1}
	f.Fuzz(func(t *testing.T, b []byte) {
		was, err := parseMarks(b)
		if (was == nil) == (err == nil) {
			t.Fatalf("%v and %v", was, err)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(was.append(nil), b) {
			t.Fatal("what was read is not what was written")
		}
		now := &marks{shape: was.shape, chunks: []chunk{{first: 64}}, sectors: []sectorMark{{number: 9}}}
		v := &Volume{s: s, moment: func() (*marks, error) { return now, nil }}
		_, inodes, renewed, err := v.Changed(b, []filewatch.Extent{{Physical: 32 << 10, Length: 8192}})
		if err != nil || !slices.IsSorted(inodes) || !slices.IsSorted(renewed) {
			t.Fatalf("%v, inodes %v, renewed %v", err, inodes, renewed)
		}
	})
}
