package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A function of a module that is gone is one where nothing is mapped, nothing that
// can be executed, or a page of nothing but INT3; one byte of anything else there is
// code that somebody has.
func TestFunctionIsGone(t *testing.T) {
	const (
		tables                      = 0x30000
		function           mem.Virt = 0xffff_ffff_a000_1040
		page               mem.Phys = 0x40000
		present, noExecute          = 1, 1 << 63
	)
	traps := func(m memtest.Pages) {
		for at := range mem.Phys(mem.PageSize) {
			m.Write(page+at, 0xcc)
		}
	}
	for name, tt := range map[string]struct {
		flags uint64 // of the page
		fill  func(memtest.Pages)
		at    mem.Virt
		gone  bool
	}{
		"not mapped":            {0, traps, function, true},
		"not executable":        {present | noExecute, func(m memtest.Pages) { m.Write(page, 0x90) }, function, true},
		"INT3":                  {present, traps, function, true},
		"code":                  {present, func(m memtest.Pages) { m.Write(page+0x40, 0x55) }, function, false},
		"INT3 and then code":    {present, func(m memtest.Pages) { traps(m); m.Write(page+0xfff, 0xc3) }, function, false},
		"code and then INT3":    {present, func(m memtest.Pages) { traps(m); m.Write(page, 0xf3) }, function, false},
		"no memory":             {present, func(memtest.Pages) {}, function, false},
		"not where modules are": {present, traps, 0xffff_ffff_9fff_f040, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := make(memtest.Pages)
			m.WriteU64(tables+511*8, tables+0x1000|present)
			m.WriteU64(tables+0x1000+510*8, tables+0x2000|present)
			m.WriteU64(tables+0x2000+mem.Phys(tt.at>>21&511)*8, tables+0x3000|present)
			m.WriteU64(tables+0x3000+mem.Phys(tt.at>>12&511)*8, uint64(page)|tt.flags)
			tt.fill(m)
			c := &collector{ctx: t.Context(), profile: &kernel.Profile{Space: paging.SpaceAt(m, tables, 4)}}
			if got := c.gone(tt.at); got != tt.gone {
				t.Errorf("gone: %v", got)
			}
		})
	}
}
