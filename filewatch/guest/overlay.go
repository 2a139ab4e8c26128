package guest

import (
	"cmp"
	"maps"
	"slices"
	"sort"
)

// overlay is what was found of a volume since its base was written. Of an inode in
// places nothing in the base holds: neither where it was nor, if it was a
// directory, what was in it.
type overlay struct {
	places  map[uint64]placeBody // nil for an inode that is gone
	entries []entry              // of directories in places, in order
}

// entry is one directory entry, by inode, then by directory.
type entry struct {
	inode, parent uint64
	name          string
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.inode, b.inode), cmp.Compare(a.parent, b.parent), cmp.Compare(a.name, b.name))
}

func newOverlay() *overlay { return &overlay{places: map[uint64]placeBody{}} }

// has says that nothing of the inode in the base holds.
func (o *overlay) has(inode uint64) bool {
	_, ok := o.places[inode]
	return ok
}

// of are the entries that name an inode.
func (o *overlay) of(inode uint64) []entry {
	first := sort.Search(len(o.entries), func(i int) bool { return o.entries[i].inode >= inode })
	end := first
	for end < len(o.entries) && o.entries[end].inode == inode {
		end++
	}
	return o.entries[first:end]
}

// under is the overlay with a newer one over it.
func (o *overlay) under(newer *overlay) *overlay {
	out := &overlay{places: maps.Clone(o.places)}
	maps.Copy(out.places, newer.places)
	for _, e := range o.entries {
		if !newer.has(e.parent) {
			out.entries = append(out.entries, e)
		}
	}
	out.entries = append(out.entries, newer.entries...)
	slices.SortFunc(out.entries, compareEntries)
	return out
}
