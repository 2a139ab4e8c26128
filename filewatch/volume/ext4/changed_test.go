package ext4

import (
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// An inode comes into use, or goes out of it, by its group's count of inodes never
// used, though not a byte of the inode table changed: Objects looks at it then, or
// no longer does, so it is a candidate.
func TestChangedInodesByGroupCount(t *testing.T) {
	v := &Volume{s: &super{blockSize: 1024, inodesPerGroup: 16, inodeSize: 128}}
	counts := func(unused ...uint32) *marks {
		m := &marks{}
		for i, n := range unused {
			m.groups = append(m.groups, groupMark{uint64(10 + 2*i), n})
		}
		return m
	}
	block := func(n int64) []filewatch.Extent { return []filewatch.Extent{{Physical: n * 1024, Length: 1024}} }
	for name, c := range map[string]struct {
		was, now *marks
		dirty    []filewatch.Extent
		want     []uint64
	}{
		"nothing":                      {counts(8, 16), counts(8, 16), nil, nil},
		"came into use":                {counts(8, 16), counts(5, 16), nil, []uint64{9, 10, 11}},
		"went out of use":              {counts(8, 12), counts(8, 14), nil, []uint64{19, 20}},
		"first of a group":             {counts(16, 16), counts(16, 15), nil, []uint64{17}},
		"table written, used in part":  {counts(12, 16), counts(12, 16), block(10), []uint64{1, 2, 3, 4}},
		"table written, never used":    {counts(8, 16), counts(8, 16), block(12), nil},
		"table written, comes in use":  {counts(8, 16), counts(8, 14), block(12), []uint64{17, 18}},
		"second block of the table":    {counts(0, 16), counts(0, 16), block(11), []uint64{9, 10, 11, 12, 13, 14, 15, 16}},
		"block that is of no one's":    {counts(0, 0), counts(0, 0), block(30), nil},
		"out of use in a written part": {counts(8, 16), counts(14, 16), block(10), []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
	} {
		if got := v.changedInodes(c.was, c.now, c.dirty); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
