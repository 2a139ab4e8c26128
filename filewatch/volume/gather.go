package volume

import (
	"slices"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// gathered are pieces of a device that were read at once, sorted by where they are.
type gathered struct {
	offs []int64
	bufs [][]byte
}

// at gives what is held from off on, nil for nothing.
func (g *gathered) at(off int64) []byte {
	i := sort.Search(len(g.offs), func(i int) bool { return g.offs[i] > off }) - 1
	if i < 0 || off-g.offs[i] >= int64(len(g.bufs[i])) {
		return nil
	}
	return g.bufs[i][off-g.offs[i]:]
}

// maxGathered is how many pieces are read at once at most.
const maxGathered = 128

// gather reads the contents of the first items at once, as many of them as the
// window has room for. Where that fails, each is read by itself and says so.
func (w *window) gather(items []placed) {
	w.n, w.gathered = 0, gathered{}
	var runs []filewatch.Extent
	room := int64(len(w.buf))
	for i := range items {
		before := len(runs)
		if !items[i].read {
			continue
		}
		runs = items[i].runs(runs)
		for _, r := range runs[before:] {
			room -= r.Length
		}
		if room < 0 || len(runs) > maxGathered {
			runs = runs[:before]
			break
		}
	}
	runs = Merge(runs) // several objects may share one
	if len(runs) < 2 {
		return // one read does it
	}
	g := gathered{offs: make([]int64, len(runs)), bufs: make([][]byte, len(runs))}
	rest := w.buf
	for i, r := range runs {
		g.offs[i], g.bufs[i], rest = r.Physical, rest[:r.Length:r.Length], rest[r.Length:]
	}
	if span.ReadMany(w.dev, g.bufs, g.offs) == nil {
		w.gathered = g
	}
}

// runs adds where the content is on the device to those of others.
func (i *scanItem) runs(to []filewatch.Extent) []filewatch.Extent {
	to = slices.Grow(to, len(i.where.Extents))
	for _, e := range i.where.Extents {
		if n := min(e.Length, i.obj.Size-e.Logical); e.Physical >= 0 && n > 0 {
			to = append(to, filewatch.Extent{Physical: e.Physical, Length: n})
		}
	}
	return to
}
