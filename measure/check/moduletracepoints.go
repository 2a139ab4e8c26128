package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// unsettledTracepoints names the modules whose account of their tracepoints is not
// the same in two lists: they may have gone, and come back, while one was read.
func unsettledTracepoints(before, after []kernel.LoadedModule) []string {
	var out []string
	for _, m := range before {
		same := func(now kernel.LoadedModule) bool {
			return now.At == m.At && now.Name == m.Name && now.Live == m.Live &&
				now.Tracepoints == m.Tracepoints && now.TracepointTable == m.TracepointTable
		}
		if !slices.ContainsFunc(after, same) {
			out = append(out, m.Name)
		}
	}
	return out
}

// moduleTracepoints compares how many tracepoints each module says it has, and
// where it says their table is, with its file: linux.objects finds them by that.
// What is in the table is for modules.rodata. It says of which modules it could
// not.
func (j *judging) moduleTracepoints(unsettled []string, out *measure.Check) string {
	want, err := j.expected()
	unknown := 0
	var open []string
	for i := range j.code.modules {
		m := &j.code.modules[i]
		switch {
		case !m.Live || slices.Contains(unsettled, m.Name):
			open = append(open, m.Name)
		case err != nil || want.modules[m.Name] == nil:
			unknown++
		default:
			if f := m.tracepoints(want.modules[m.Name].Tracepoints()); f != nil {
				out.Findings = append(out.Findings, *f)
			}
		}
	}
	var own, moving string
	if unknown > 0 {
		own = fmt.Sprintf("how many tracepoints %d modules have is their own word: there are no files to compare with", unknown)
	}
	if len(open) > 0 {
		moving = "not compared as they come or go, how many tracepoints there are in " + strings.Join(open, ", ")
	}
	return remarks(own, moving)
}

// tracepoints judges a module's account of its tracepoints.
func (m *moduleFact) tracepoints(want kernel.TracepointTable) *measure.Finding {
	f := measure.Finding{Address: m.At.String(), Symbol: "module " + m.Name,
		Observed: fmt.Sprintf("%d tracepoints at %v", m.Points, m.PointTable), Expected: fmt.Sprintf("%d at %v", want.Count, want.At)}
	switch {
	case uint64(m.Points) != want.Count:
		f.Explanation = "a module's account of its tracepoints hides some or makes some up: its file has another number"
	case want.Count > 0 && m.PointTable != address(want.At):
		f.Explanation = "a module's table of tracepoints is not the one of its file"
	case want.Count > 0 && !want.Compared:
		f.Explanation = "a module's table of tracepoints is not in its read-only data"
	default:
		return nil
	}
	return &f
}
