package graph

// ways tells whether something holds of an object that a walk came by, or of one
// that led to it.
type ways struct {
	walk  *walker
	is    func(n *node) bool
	known map[int32]bool
}

func (w *walker) ways(is func(n *node) bool) *ways { return &ways{w, is, make(map[int32]bool)} }

// any reports whether it holds of an object, or of one that led to it. Each object
// is asked about once.
func (l *ways) any(i int32) bool {
	var way []int32
	found := false
	for ; i >= 0 && !found; i = l.walk.nodes[i].parent {
		if known, ok := l.known[i]; ok {
			found = known
			break
		}
		way = append(way, i)
		found = l.is(&l.walk.nodes[i])
	}
	for _, k := range way {
		l.known[k] = found
	}
	return found
}
