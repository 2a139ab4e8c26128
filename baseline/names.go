package baseline

import (
	"container/heap"
	"iter"
	"strings"
)

// ByName joins two streams of records by name, the way tools see files that
// know paths only: each name of an object is an entry of its own, and a renamed
// object is one that went and one that came. visit gets each path once per
// volume, in bytewise order, with nil where a side has no such entry. Objects
// without a name are left out. The records are streamed: what is held are the
// further names of objects with several, until their turn comes.
func ByName(old, new iter.Seq2[*Record, error], visit func(path string, old, new *Record) error) error {
	nextOld, stopOld := iter.Pull2(entries(old))
	defer stopOld()
	nextNew, stopNew := iter.Pull2(entries(new))
	defer stopNew()
	a, errA, okA := nextOld()
	b, errB, okB := nextNew()
	for okA || okB {
		if okA && errA != nil {
			return errA
		}
		if okB && errB != nil {
			return errB
		}
		order := 0
		switch {
		case !okA:
			order = 1
		case !okB:
			order = -1
		default:
			order = a.compare(b)
		}
		var was, is *Record
		path := ""
		if order <= 0 {
			was, path = a.record, a.path
			a, errA, okA = nextOld()
		}
		if order >= 0 {
			is, path = b.record, b.path
			b, errB, okB = nextNew()
		}
		if err := visit(path, was, is); err != nil {
			return err
		}
	}
	return nil
}

// Records of one name: a path of a volume.
type entry struct {
	path   string
	record *Record
}

// compare leaves the inode out: an object that was replaced has its old name.
func (e entry) compare(f entry) int {
	if c := strings.Compare(e.path, f.path); c != 0 {
		return c
	}
	return strings.Compare(e.record.Volume, f.record.Volume)
}

// entries gives every name of every record in order. A record's further names
// are greater than its first, so they wait until the stream has passed them.
func entries(records iter.Seq2[*Record, error]) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		var waiting entryHeap
		for r, err := range records {
			if err != nil {
				yield(entry{}, err)
				return
			}
			for _, name := range r.Names {
				if strings.HasPrefix(name, "/") {
					heap.Push(&waiting, entry{name, r})
				}
			}
			for len(waiting) > 0 && waiting[0].path < r.Path() {
				if !yield(heap.Pop(&waiting).(entry), nil) {
					return
				}
			}
		}
		for len(waiting) > 0 {
			if !yield(heap.Pop(&waiting).(entry), nil) {
				return
			}
		}
	}
}

type entryHeap []entry

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *entryHeap) Push(x any)        { *h = append(*h, x.(entry)) }
func (h *entryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
