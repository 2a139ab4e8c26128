package sorted

import (
	"bytes"
	"container/heap"
	"fmt"
	"io"
	"os"
	"slices"
)

// runLen is how many bytes a [Sorter] holds in memory.
const runLen = 4 << 20

// Sorter puts any number of entries in the order of their bytes: runs are sorted
// in memory and spilled to one unlinked temporary file.
type Sorter struct {
	dir   string
	text  []byte
	at    []span
	spill *os.File
	end   int64
	runs  []*File
}

type span struct{ off, size uint32 }

// NewSorter spills to dir, "" for the system's directory for temporary files.
func NewSorter(dir string) *Sorter { return &Sorter{dir: dir} }

// Add takes an entry.
func (s *Sorter) Add(entry []byte) error {
	if len(s.text)+len(entry) > runLen && len(s.at) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.at = append(s.at, span{uint32(len(s.text)), uint32(len(entry))})
	s.text = append(s.text, entry...)
	return nil
}

func (s *Sorter) entry(at span) []byte { return s.text[at.off : at.off+at.size] }

func (s *Sorter) sort() {
	slices.SortFunc(s.at, func(a, b span) int { return bytes.Compare(s.entry(a), s.entry(b)) })
}

func (s *Sorter) flush() error {
	if s.spill == nil {
		f, err := os.CreateTemp(s.dir, ".plumbline-sort-*")
		if err != nil {
			return fmt.Errorf("make temporary file: %w", err)
		}
		os.Remove(f.Name())
		s.spill = f
	}
	s.sort()
	w := NewWriter(io.NewOffsetWriter(s.spill, s.end))
	for _, at := range s.at {
		if _, err := w.Add(s.entry(at)); err != nil {
			return fmt.Errorf("write temporary file: %w", err)
		}
	}
	ref, err := w.Finish()
	if err != nil {
		return fmt.Errorf("write temporary file: %w", err)
	}
	run, err := Open(io.NewSectionReader(s.spill, s.end, ref.Size), ref)
	if err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	s.runs, s.end = append(s.runs, run), s.end+ref.Size
	s.text, s.at = s.text[:0], s.at[:0]
	return nil
}

// Each gives all entries in order. Their bytes are valid during the call.
func (s *Sorter) Each(fn func(entry []byte) error) error {
	if len(s.runs) == 0 {
		s.sort()
		for _, at := range s.at {
			if err := fn(s.entry(at)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.text, s.at = nil, nil
	var h cursors
	for _, r := range s.runs {
		c := &head{cursor: r.All()}
		if more, err := c.next(); err != nil {
			return err
		} else if more {
			h = append(h, c)
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		if err := fn(h[0].entry); err != nil {
			return err
		}
		more, err := h[0].next()
		if err != nil {
			return err
		}
		if more {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return nil
}

// Close frees the temporary file.
func (s *Sorter) Close() {
	if s.spill != nil {
		s.spill.Close()
	}
}

// head is the first entry of a run that was not given yet.
type head struct {
	cursor *Cursor
	entry  []byte
}

func (h *head) next() (more bool, err error) {
	h.entry, err = h.cursor.Next()
	return h.entry != nil, err
}

type cursors []*head

func (h cursors) Len() int           { return len(h) }
func (h cursors) Less(i, j int) bool { return bytes.Compare(h[i].entry, h[j].entry) < 0 }
func (h cursors) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursors) Push(x any)        { *h = append(*h, x.(*head)) }
func (h *cursors) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
