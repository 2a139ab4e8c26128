package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// row is one expectation of the story.
type row struct {
	what, want, seen string
	took             time.Duration
}

// expect notes what was expected and what was seen.
func (s *story) expect(what, want, seen string, took time.Duration) {
	s.rows = append(s.rows, row{what, want, seen, took})
	mark := "as expected"
	if want != seen {
		mark = "NOT as expected: " + want
	}
	s.detail("%s: %s (%s)", what, seen, mark)
}

// met says whether every expectation held.
func (s *story) met() bool {
	for _, r := range s.rows {
		if r.want != r.seen {
			return false
		}
	}
	return len(s.rows) > 0
}

// table prints what was expected and seen.
func (s *story) table(out io.Writer) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tEXPECTED\tSEEN\tTIME\t")
	for _, r := range s.rows {
		mark := "ok"
		if r.want != r.seen {
			mark = "DIFFERS"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f s\t%s\n", r.what, r.want, r.seen, r.took.Seconds(), mark)
	}
	w.Flush()
	fmt.Fprintf(out, "\n%d of %d as expected, %.0f s in all. Console: %s\n", s.count(), len(s.rows), time.Since(s.started).Seconds(), s.console)
}

func (s *story) count() (n int) {
	for _, r := range s.rows {
		if r.want == r.seen {
			n++
		}
	}
	return n
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
