package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A module is dormant while it is being loaded and the page tables let nobody execute
// any of its memory, whatever else its account says.
func TestDormantModule(t *testing.T) {
	const (
		at        mem.Virt = 0xffff_ffff_c000_0000
		noExecute          = 1 << 63
		unformed           = 3
		coming             = 1
		going              = 2
	)
	text, init := kernel.Area{Kind: kernel.AreaText, Start: at, Size: mem.PageSize + 1}, kernel.Area{Kind: kernel.AreaInit, Start: at + 2*mem.PageSize, Size: 1}
	both := []kernel.Area{text, init}
	nobody := [3]uint64{noExecute, noExecute, noExecute}
	for name, tt := range map[string]struct {
		module kernel.LoadedModule
		pages  [3]uint64 // flags: two of text, one of init
		want   bool
	}{
		"being made":           {kernel.LoadedModule{State: unformed, Areas: both}, nobody, true},
		"coming":               {kernel.LoadedModule{State: coming, Areas: both}, nobody, true},
		"runs":                 {kernel.LoadedModule{State: unformed, Areas: both}, [3]uint64{}, false},
		"runs in its end":      {kernel.LoadedModule{State: unformed, Areas: both}, [3]uint64{noExecute, 0, noExecute}, false},
		"runs its start":       {kernel.LoadedModule{State: coming, Areas: both}, [3]uint64{noExecute, noExecute, 0}, false},
		"says that it is live": {kernel.LoadedModule{Live: true, Areas: both}, nobody, false},
		"goes":                 {kernel.LoadedModule{State: going, Areas: both}, nobody, false},
		"says it has no text":  {kernel.LoadedModule{State: unformed, Areas: []kernel.Area{init}}, nobody, false},
		"has text of no size":  {kernel.LoadedModule{State: unformed, Areas: []kernel.Area{{Kind: kernel.AreaText, Start: at}}}, nobody, false},
	} {
		t.Run(name, func(t *testing.T) {
			memory := make(memtest.Pages)
			memory.WriteU64(0x10000+511*8, 0x11000|3)
			memory.WriteU64(0x11000+511*8, 0x12000|3)
			memory.WriteU64(0x12000, 0x13000|3)
			for i, flags := range tt.pages {
				memory.WriteU64(0x13000+mem.Phys(i)*8, uint64(0x20000+i*mem.PageSize)|3|flags)
			}
			c := &collector{ctx: t.Context(), profile: &kernel.Profile{Space: paging.SpaceAt(memory, 0x10000, 4)}}
			m := tt.module
			m.At = at
			if got := c.dormantOf([]kernel.LoadedModule{m})[at]; got != tt.want {
				t.Errorf("dormant: %v", got)
			}
		})
	}
}

// What was dormant when the scan began, and can be executed when page tables are
// walked, is compared by nobody.
func TestDormantModuleThatWakes(t *testing.T) {
	m := kernel.LoadedModule{Name: "wakes", At: 0x9000, Areas: []kernel.Area{{Kind: kernel.AreaText, Start: 0x1000, Size: 0x1000}}}
	c := collector{modules: []kernel.LoadedModule{m}, dormant: map[mem.Virt]bool{0x9000: true}}
	if got := c.starting([]mappedRange{{Start: 0x1000, Size: 0x1000}}); len(got) != 1 || got[0] != "wakes" {
		t.Errorf("starting: %v", got)
	}
	if got := c.starting([]mappedRange{{Start: 0x2000, Size: 0x1000}}); len(got) != 0 {
		t.Errorf("still dormant: %v", got)
	}
}

// Pointers into a dormant module go where nothing is compared, unless all of them are
// known to be stored in one area of the module's own.
func TestPointersIntoDormantModule(t *testing.T) {
	areas := []areaFact{{kernel.AreaText, 0x1000, 0x1000}, {kernel.AreaData, 0x2000, 0x1000}}
	for name, tt := range map[string]struct {
		fact moduleFact
		to   targetFact
		want string
	}{
		"its own":             {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 1}, ""},
		"its own and more":    {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2}, "m"},
		"two of its own":      {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2, Low: 0x2000, High: 0x2ff8}, ""},
		"one before it":       {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2, Low: 0xff8, High: 0x2010}, "m"},
		"one behind it":       {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2, Low: 0x2010, High: 0x3000}, "m"},
		"in two areas":        {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2, Low: 0x1010, High: 0x2010}, "m"},
		"the wrong way round": {moduleFact{Dormant: true}, targetFact{At: 0x2010, Value: 0x1010, Count: 2, Low: 0x2020, High: 0x2010}, "m"},
		"the kernel's":        {moduleFact{Dormant: true}, targetFact{At: 0x9010, Value: 0x1010, Count: 1}, "m"},
		"elsewhere":           {moduleFact{Dormant: true}, targetFact{At: 0x9010, Value: 0x3010, Count: 1}, ""},
		"it is not dormant":   {moduleFact{}, targetFact{At: 0x9010, Value: 0x1010, Count: 1}, ""},
		"it is live":          {moduleFact{Dormant: true, Live: true}, targetFact{At: 0x9010, Value: 0x1010, Count: 1}, ""},
	} {
		tt.fact.Name, tt.fact.Areas = "m", areas
		j := &judging{obs: &measure.Observations{}, code: code{modules: []moduleFact{tt.fact}}}
		if got := j.leadsAsleep(&tt.to); got != tt.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
