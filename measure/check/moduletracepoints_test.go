package check

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

const pointsAt = 0xffff_ffff_c040_1000

func TestDetectsHiddenTracepoints(t *testing.T) {
	file := kernel.TracepointTable{Count: 109, At: pointsAt, Compared: true}
	tests := map[string]struct {
		count uint32
		table address
		want  kernel.TracepointTable
		says  string
	}{
		"none":                   {0, pointsAt, file, "hides some"},
		"one less":               {108, pointsAt, file, "hides some"},
		"one more":               {110, pointsAt, file, "makes some up"},
		"another table":          {109, pointsAt + 4, file, "not the one of its file"},
		"no table":               {109, 0, file, "not the one of its file"},
		"a table of its own":     {109, 0x8000, kernel.TracepointTable{Count: 109, At: 0x8000}, "not in its read-only data"},
		"some where none are":    {1, pointsAt, kernel.TracepointTable{}, "makes some up"},
		"four billion of nobody": {1<<32 - 1, 0, kernel.TracepointTable{}, "makes some up"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := moduleFact{Name: "kvm", At: 0x1000, Points: tt.count, PointTable: tt.table}
			f := m.tracepoints(tt.want)
			if f == nil || !strings.Contains(f.Explanation, tt.says) {
				t.Errorf("%+v, want %q", f, tt.says)
			}
		})
	}
}

func TestAcceptsTracepointsOfFile(t *testing.T) {
	for name, m := range map[string]moduleFact{
		"some":         {Points: 109, PointTable: pointsAt},
		"none":         {},
		"an empty one": {PointTable: pointsAt}, // the loader gives sections without contents a place
	} {
		want := kernel.TracepointTable{Count: uint64(m.Points), At: pointsAt, Compared: true}
		if f := m.tracepoints(want); f != nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// Modules without a file, and those that come or go, are named. One that is not
// live and has other tracepoints than its file is not measured: anybody can set its
// state.
func TestTracepointsNotCompared(t *testing.T) {
	j := &judging{refs: &References{}, text: &expectedText{}}
	for i, live := range []bool{true, false, true, true} {
		j.code.modules = append(j.code.modules, moduleFact{Name: string(rune('a' + i)), Live: live, Points: 3})
	}
	var out measure.Check
	got, err := j.moduleTracepoints([]string{"c"}, &out)
	if err != nil || !strings.Contains(got, "3 modules have is their own word") || !strings.HasSuffix(got, "in c") || len(out.Findings) > 0 {
		t.Errorf("%q, %v, %+v", got, err, out.Findings)
	}
	j.text.modules = map[string]*kernel.Text{"b": {}} // whose file has no tracepoints
	if got, err := j.moduleTracepoints(nil, &out); err == nil || len(out.Findings) > 0 {
		t.Errorf("other tracepoints of a module that is not live: %q, %+v", got, out.Findings)
	}
	j.code.modules[1].Live = true
	if _, err := j.moduleTracepoints(nil, &out); err != nil || len(out.Findings) != 1 {
		t.Errorf("of one that is: %v, %+v", err, out.Findings)
	}
	j.code.modules[1].Points, j.code.modules[1].Live = 0, false
	if _, err := j.moduleTracepoints(nil, &out); err != nil {
		t.Errorf("the same tracepoints: %v", err)
	}
	j.code.modules = nil
	if got, err := j.moduleTracepoints(nil, &out); got != "" || err != nil {
		t.Errorf("no modules: %q, %v", got, err)
	}
}

func TestUnsettledTracepoints(t *testing.T) {
	one := kernel.LoadedModule{Name: "kvm", At: 0x1000, Live: true, Tracepoints: 109, TracepointTable: pointsAt}
	change := func(f func(*kernel.LoadedModule)) kernel.LoadedModule {
		m := one
		f(&m)
		return m
	}
	const settled, unsettled, changing = 0, 1, 2
	for name, tt := range map[string]struct {
		then []kernel.LoadedModule
		want int
	}{
		"the same":      {[]kernel.LoadedModule{{Name: "new"}, one}, settled},
		"gone":          {nil, unsettled},
		"another place": {[]kernel.LoadedModule{change(func(m *kernel.LoadedModule) { m.At++ })}, unsettled},
		"going":         {[]kernel.LoadedModule{change(func(m *kernel.LoadedModule) { m.Live = false })}, unsettled},
		"other number":  {[]kernel.LoadedModule{change(func(m *kernel.LoadedModule) { m.Tracepoints = 0 })}, changing},
		"other table":   {[]kernel.LoadedModule{change(func(m *kernel.LoadedModule) { m.TracepointTable = 0 })}, changing},
	} {
		t.Run(name, func(t *testing.T) {
			open, other := unsettledTracepoints([]kernel.LoadedModule{one}, tt.then)
			if got := len(open)*unsettled + len(other)*changing; got != tt.want {
				t.Errorf("unsettled %v, changing %v", open, other)
			}
		})
	}
}
