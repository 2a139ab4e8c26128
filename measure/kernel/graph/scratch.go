package graph

import "github.com/plumbline-sec/plumbline/measure/mem"

// scratch is memory that one walk after another uses: a walk takes some 30 MiB,
// and to get and clear that anew would take longer than to look at what is in it.
type scratch struct {
	nodes []node
	*frames
	held   []*frame // whose bytes are in chunks, in order
	chunks [][]byte // for pages
}

const chunkSize = 256 * mem.PageSize

// Bounds of what is kept for the next walk, after one of a large target: some
// 80 MiB, beside maxHeld pages.
const (
	maxKeptNodes  = 1 << 19
	maxKeptFrames = 1 << 18
)

// borrow returns scratch memory; give returns it.
func (s *Schema) borrow() *scratch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); n > 0 {
		out := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return out
	}
	return &scratch{nodes: make([]node, 0, 1<<16), frames: newFrames()}
}

func (s *Schema) give(back *scratch) {
	back.nodes = back.nodes[:0]
	if cap(back.nodes) > maxKeptNodes {
		back.nodes = make([]node, 0, 1<<16)
	}
	if back.all.used > maxKeptFrames || back.more.used > maxKeptFrames {
		back.frames = newFrames()
	}
	back.frames.clear()
	clear(back.held)
	back.held = back.held[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) == 0 { // scans of one kernel at the same time are rare
		s.spare = append(s.spare, back)
	}
}
