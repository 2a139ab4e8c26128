package ext4

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// What is kept of an earlier moment: marks or an error, and whatever they say, what
// changed since is an answer or an error in bounded time.
func FuzzMarks(f *testing.F) {
	m := &marks{groups: []groupMark{{table: 5, unused: 3}}, blocks: []replaced{{block: 9, from: 77}, {block: 12, from: 80, escaped: true}},
		inodes: []uint32{11, 12}, dirs: []uint32{2}}
	f.Add(m.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		was, err := parseMarks(b)
		if (was == nil) == (err == nil) {
			t.Fatalf("%v and %v", was, err)
		}
		if err != nil {
			return
		}
		if again := was.append(nil); len(again) != len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		} else if back, err := parseMarks(again); err != nil || !bytes.Equal(back.append(nil), again) {
			t.Fatalf("do not come back: %v", err)
		}
		v := &Volume{s: &super{blockSize: 1024, inodesPerGroup: 16, inodeSize: 128}}
		now := &marks{groups: make([]groupMark, len(was.groups))}
		runs := v.changedBlocks(was, now, []filewatch.Extent{{Physical: 4096, Length: 8192}})
		if len(was.groups) < 64 {
			v.changedInodes(was, now, runs)
		}
	})
}
