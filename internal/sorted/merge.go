package sorted

import "container/heap"

// Run is entries in order.
type Run interface {
	// Next gives the next entry, nil at the end. It is valid until Next is called
	// again.
	Next() ([]byte, error)
}

// Merge calls fn for the entries of all runs in the order of compare, which each of
// them has. The bytes are valid during the call.
func Merge(runs []Run, compare func(a, b []byte) int, fn func(entry []byte) error) error {
	h := merge{compare: compare}
	for _, r := range runs {
		entry, err := r.Next()
		if err != nil {
			return err
		}
		if entry != nil {
			h.heads = append(h.heads, head{r, entry})
		}
	}
	heap.Init(&h)
	for len(h.heads) > 0 {
		first := &h.heads[0]
		if err := fn(first.entry); err != nil {
			return err
		}
		var err error
		if first.entry, err = first.run.Next(); err != nil {
			return err
		}
		if first.entry == nil {
			heap.Pop(&h)
		} else {
			heap.Fix(&h, 0)
		}
	}
	return nil
}

// head is the first entry of a run that was not given yet.
type head struct {
	run   Run
	entry []byte
}

// merge implements heap.Interface.
type merge struct {
	heads   []head
	compare func(a, b []byte) int
}

func (m *merge) Len() int           { return len(m.heads) }
func (m *merge) Less(i, j int) bool { return m.compare(m.heads[i].entry, m.heads[j].entry) < 0 }
func (m *merge) Swap(i, j int)      { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *merge) Push(x any)         { m.heads = append(m.heads, x.(head)) }
func (m *merge) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}
