package check

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

func TestDetectsTracepointCallElsewhere(t *testing.T) {
	const iterator, probe, other = 0x1000, 0x2000, 0x3000
	tests := map[string]struct {
		call   address
		probes []address
		says   string
	}{
		"off, to all":                  {iterator, nil, ""},
		"off, elsewhere":               {other, nil, "without probes"},
		"off, nowhere":                 {0, nil, "without probes"},
		"one, to it":                   {probe, []address{probe}, ""},
		"one, to all":                  {iterator, []address{probe}, ""},
		"one, past it":                 {other, []address{probe}, "neither to its only probe"},
		"two, to all":                  {iterator, []address{probe, other}, ""},
		"two, to the first alone":      {probe, []address{probe, other}, "several probes"},
		"two of one function, to that": {probe, []address{probe, probe}, "several probes"},
	}
	for name, tt := range tests {
		call := traceCall{Name: "module_free", At: 0x8000, Key: 0x8100, Call: tt.call, Iterator: iterator, Probes: tt.probes}
		if got := call.follows(iterator); !strings.Contains(got, tt.says) || (got == "") != (tt.says == "") {
			t.Errorf("%s: %q", name, got)
		}
		c := judgeOne(t, withObjects(t, func(d *objectsData) { d.Calls.Calls = []traceCall{call} }), objectsName)
		if tt.says != "" {
			requireFinding(t, c, "__SCK__tp_func_module_free", tt.says)
		} else if c.Outcome != measure.Pass {
			t.Errorf("%s: %s %+v", name, c.Outcome, c.Findings)
		}
	}
}

// Static calls that were not read, or while probes were registered all the time, are
// no pass; those of a module that came or went are left out.
func TestTracepointCallsNotMeasured(t *testing.T) {
	wrong := traceCall{Module: "kvm", Name: "kvm_exit", Call: 0x3000, Iterator: 0x1000}
	for name, tt := range map[string]struct {
		facts traceCallFacts
		want  measure.Outcome
	}{
		"unread":             {traceCallFacts{Unread: "no memory"}, measure.NotMeasured},
		"always registering": {traceCallFacts{Open: []string{"__SCK__tp_func_module_free"}}, measure.NotMeasured},
		"of a module":        {traceCallFacts{Calls: []traceCall{wrong}}, measure.Fail},
		"of one that goes":   {traceCallFacts{Calls: []traceCall{wrong}, Gone: []string{"kvm"}}, measure.Pass},
		"no symbols of it":   {traceCallFacts{Calls: []traceCall{{Module: "kvm", Call: 0x3000}}}, measure.Pass},
	} {
		c := judgeOne(t, withObjects(t, func(d *objectsData) { d.Calls = tt.facts }), objectsName)
		if c.Outcome != tt.want {
			t.Errorf("%s: %s %s %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// changing is memory that changes before it is read.
type changing struct {
	memtest.Pages
	change func()
}

func (c *changing) ReadPhys(p []byte, at mem.Phys) error {
	c.change()
	return c.Pages.ReadPhys(p, at)
}

// What is wrong only while probes are registered is right in the end, and nothing is
// believed while they are.
func TestTracepointCallSettles(t *testing.T) {
	const (
		base                                      = 0xffff_ffff_8000_0000
		lock, point, key, list                    = base + 0x1000, base + 0x2000, base + 0x3000, base + 0x4000
		iterator, probe, other            address = base + 0x5000, base + 0x5100, base + 0x5200
		funcs                                     = 16
		soon, late, never, bound, minimum         = 100 * time.Millisecond, 2 * time.Second, time.Hour, lockPatience + time.Second, traceCallLooks * lastingPause
	)
	tests := map[string]struct {
		released, called time.Duration // when the lock is free, when the call is right
		wrong            bool
		err              error
		patience         time.Duration
	}{
		"right":                        {0, 0, false, nil, lockPatience},
		"follows while it is locked":   {soon, soon / 2, false, nil, lockPatience},
		"follows after it was free":    {0, soon, false, nil, lockPatience},
		"follows much later":           {late, late - soon, false, nil, lockPatience},
		"never follows":                {0, never, true, nil, lockPatience},
		"never follows, locked before": {late, never, true, nil, lockPatience},
		"locked all the time":          {never, never, true, errRegistering, lockPatience},
		// Others have waited for so long that nobody waits any more.
		"never follows, no patience":          {0, never, true, nil, 0},
		"follows after it was free, the same": {0, soon, false, nil, 0},
		"follows much later, the same":        {late, late - soon, true, errRegistering, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pages := make(memtest.Pages)
				pages.WriteU64(0x10000+511*8, 0x11000|3) // one page of 1 GiB
				pages.WriteU64(0x11000+510*8, 0x83)
				for at, v := range map[uint64]uint64{lock: 1, point + funcs: list, list: uint64(probe), list + 24: 0, key: uint64(other)} {
					pages.WriteU64(mem.Phys(at-base), v)
				}
				began := time.Now()
				space := paging.SpaceAt(&changing{pages, func() {
					if time.Since(began) >= tt.released {
						pages.WriteU64(lock-base, 0)
					}
					if time.Since(began) >= tt.called {
						pages.WriteU64(key-base, uint64(probe))
					}
				}}, 0x10000, 4)
				r := traceCallReader{collector: &collector{ctx: t.Context(), space: space, forLocks: &patience{left: tt.patience}}, lock: lock, funcs: funcs, next: 24}
				calls := []traceLook{{traceCall: traceCall{At: point, Key: key, Iterator: iterator}}}
				r.settle(calls)
				took := time.Since(began)
				call, err := &calls[0].traceCall, calls[0].err
				if !errors.Is(err, tt.err) || (call.follows(iterator) != "") != tt.wrong {
					t.Errorf("%v, %+v", err, call)
				}
				if took > bound || tt.wrong && took < minimum {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
