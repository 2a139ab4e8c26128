package sorted

import (
	"bytes"
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
	if len(s.at) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.text, s.at = nil, nil
	var runs []Run
	for _, r := range s.runs {
		runs = append(runs, r.All())
	}
	return Merge(runs, bytes.Compare, fn)
}

// Close frees the temporary file.
func (s *Sorter) Close() {
	if s.spill != nil {
		s.spill.Close()
	}
}
