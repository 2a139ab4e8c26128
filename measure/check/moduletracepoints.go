package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// unsettledTracepoints names the modules that are not in both of two lists of live
// modules: they may have gone, and come back, while one was read. Those that are,
// with another account of their tracepoints, are changing: the loader writes it
// before a module is live (find_module_sections, kernel/module/main.c, 6.12), and
// nobody after it.
func unsettledTracepoints(before, after []kernel.LoadedModule) (unsettled, changing []string) {
	for _, m := range before {
		i := slices.IndexFunc(after, func(now kernel.LoadedModule) bool {
			return now.At == m.At && now.Name == m.Name && now.Live == m.Live
		})
		switch {
		case i < 0:
			unsettled = append(unsettled, m.Name)
		case after[i].Tracepoints == m.Tracepoints && after[i].TracepointTable == m.TracepointTable:
		case m.Live:
			changing = append(changing, m.Name)
		default:
			unsettled = append(unsettled, m.Name)
		}
	}
	return unsettled, changing
}

// moduleTracepoints compares how many tracepoints each module says it has, and
// where it says their table is, with its file: linux.objects finds them by that.
// What is in the table is for modules.rodata. It says of which modules it could
// not. A module that is not live may have no account yet: one that differs is then
// an error, for whoever set its state would else hide tracepoints by it.
func (j *judging) moduleTracepoints(unsettled []string, out *measure.Check) (string, error) {
	want, err := j.expected()
	unknown := 0
	var open, starting []string
	for i := range j.code.modules {
		m := &j.code.modules[i]
		switch {
		case slices.Contains(unsettled, m.Name):
			open = append(open, m.Name)
		case err != nil || want.modules[m.Name] == nil:
			unknown++
		default:
			switch f := m.tracepoints(want.modules[m.Name].Tracepoints()); {
			case f == nil:
			case m.Live:
				out.Findings = append(out.Findings, *f)
			default:
				starting = append(starting, m.Name)
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
	if len(starting) > 0 {
		return "", errors.New("modules that are not live have other tracepoints than their files: " + strings.Join(starting, ", "))
	}
	return remarks(own, moving), nil
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
