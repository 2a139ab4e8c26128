package baseline

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// maxEdits bounds the work of comparing two texts: lines that went or came.
const maxEdits = 1000

// around is how many equal lines stand around a change.
const around = 3

// unifiedDiff is the difference of two texts as "diff -u" writes it, or why
// there is none.
func unifiedDiff(path string, old, new []byte) (diff, reason string) {
	a, b := lines(old), lines(new)
	edits, ok := script(a, b)
	if !ok {
		return "", fmt.Sprintf("more than %d lines differ", maxEdits)
	}
	hunks := hunks(edits)
	if len(hunks) == 0 {
		return "", "its text is the same"
	}
	var out strings.Builder
	name := filewatch.PrintablePath(path)
	fmt.Fprintf(&out, "--- a%s\n+++ b%s\n", name, name)
	for _, h := range hunks {
		var oldLines, newLines int
		for _, e := range h {
			oldLines += e.old
			newLines += e.new
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", span2(h[0].oldAt, oldLines), span2(h[0].newAt, newLines))
		for _, e := range h {
			text, sign := "", byte(' ')
			switch {
			case e.new == 0:
				text, sign = a[e.oldAt], '-'
			case e.old == 0:
				text, sign = b[e.newAt], '+'
			default:
				text = a[e.oldAt]
			}
			out.WriteByte(sign)
			out.WriteString(text)
			if !strings.HasSuffix(text, "\n") {
				out.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	return out.String(), ""
}

// span2 is a hunk's range: lines count from 1, and an empty range names the line
// before it.
func span2(at, n int) string {
	if n != 0 {
		at++
	}
	if n == 1 {
		return fmt.Sprint(at)
	}
	return fmt.Sprintf("%d,%d", at, n)
}

func lines(text []byte) []string {
	var out []string
	for line := range bytes.Lines(text) {
		out = append(out, string(line))
	}
	return out
}

// edit is one line: kept (old and new are 1), removed (old is 1) or added.
type edit struct{ oldAt, newAt, old, new int }

// script is a shortest edit script (E. W. Myers, An O(ND) Difference Algorithm,
// 1986), not ok when it is longer than maxEdits.
func script(a, b []string) (edits []edit, ok bool) {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	middle, ok := shortest(a[head:len(a)-tail], b[head:len(b)-tail])
	if !ok {
		return nil, false
	}
	for i := range head {
		edits = append(edits, edit{i, i, 1, 1})
	}
	for _, e := range middle {
		edits = append(edits, edit{e.oldAt + head, e.newAt + head, e.old, e.new})
	}
	for i := range tail {
		edits = append(edits, edit{len(a) - tail + i, len(b) - tail + i, 1, 1})
	}
	return edits, true
}

func shortest(a, b []string) ([]edit, bool) {
	// reach[d][k+d] is how far of a the furthest path with d edits gets on
	// diagonal k.
	var reach [][]int
	at := func(d, k int) int {
		if d < 0 || k < -d || k > d {
			return -1
		}
		return reach[d][k+d]
	}
	for d := 0; d <= min(maxEdits, len(a)+len(b)); d++ {
		reach = append(reach, make([]int, 2*d+1))
		for k := -d; k <= d; k += 2 {
			x := 0
			if d > 0 {
				x = max(at(d-1, k-1)+1, at(d-1, k+1))
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			reach[d][k+d] = x
			if x == len(a) && x-k == len(b) {
				return backtrack(at, a, b, d), true
			}
		}
	}
	return nil, false
}

func backtrack(at func(d, k int) int, a, b []string, d int) []edit {
	var out []edit
	x, y := len(a), len(b)
	for ; x > 0 || y > 0; d-- {
		k := x - y
		var fromX, fromY int
		if d > 0 {
			down, right := at(d-1, k+1), at(d-1, k-1)+1
			if right > down {
				fromX, fromY = right-1, right-1-(k-1)
			} else {
				fromX, fromY = down, down-(k+1)
			}
		}
		for x > fromX && y > fromY {
			x, y = x-1, y-1
			out = append(out, edit{x, y, 1, 1})
		}
		switch {
		case x > fromX:
			x--
			out = append(out, edit{x, y, 1, 0})
		case y > fromY:
			y--
			out = append(out, edit{x, y, 0, 1})
		}
	}
	slices.Reverse(out)
	return out
}

// hunks cuts a script into changes with the lines around them.
func hunks(edits []edit) [][]edit {
	var out [][]edit
	start, last := -1, -1
	for i, e := range edits {
		if e.old == e.new {
			continue
		}
		if start >= 0 && i-last > 2*around {
			out = append(out, edits[start:min(last+1+around, len(edits))])
			start = -1
		}
		if start < 0 {
			start = max(0, i-around)
		}
		last = i
	}
	if start >= 0 {
		out = append(out, edits[start:min(last+1+around, len(edits))])
	}
	return out
}
