package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Security modules register their hooks at boot, each all that it has, and for good:
// one that is registered and not called was switched off (kernel/securityhooks.go). A
// module that registers none was not chosen at boot, which the kernel's own says of all
// but capability.

// hooksData are the facts of security hooks.
type hooksData struct {
	Size   uint64          `json:"size"` // bytes, of a hook
	Into   uint64          `json:"into"` // where in it a pointer into the table is
	Arrays []hookArrayFact `json:"arrays"`
	Silent []silentFact    `json:"silent,omitempty"`
	Unread string          `json:"unread,omitempty"` // why none could be read
}

type hookArrayFact struct {
	Name       string  `json:"name"`
	At         address `json:"at"`
	Count      int     `json:"count"`
	Registered int     `json:"registered"`
}

// silentFact is a hook that is not called.
type silentFact struct {
	At       address `json:"at"`
	Function string  `json:"function"`
	Why      string  `json:"why"`
}

// hooks reads the security hooks. A machine that boots registers them while it is
// read: what is silent counts if it stays so.
func (c *collector) hooks() hooksData {
	var data hooksData
	silent, err := lasting(c.ctx, func() (map[silentFact]bool, error) {
		arrays, layout, err := c.profile.SecurityHooks()
		data = hooksData{Size: layout.Size, Into: layout.Into}
		found := make(map[silentFact]bool)
		for _, a := range arrays {
			data.Arrays = append(data.Arrays, hookArrayFact{a.Name, address(a.At), a.Count, a.Registered})
			for _, s := range a.Silent {
				found[silentFact{address(s.At), c.symbol(s.Function), s.Why}] = true
			}
		}
		return found, err
	})
	if err != nil {
		data.Unread = err.Error()
	}
	data.Silent = slices.SortedFunc(maps.Keys(silent), func(a, b silentFact) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Why, b.Why))
	})
	return data
}

// hooks judges security hooks: those that the image has are there, all of a module are
// registered or none, and each that is registered is called.
func (s *slotJudge) hooks(data *hooksData) error {
	table, ok := s.code.symbols.Address("security_hook_heads")
	if !ok {
		if table, ok = s.code.symbols.Address("static_calls_table"); !ok {
			return nil // the kernel has no security modules
		}
	}
	switch {
	case data.Unread != "":
		return fmt.Errorf("security hooks could not be read: %s", data.Unread)
	case data.Size < 8 || data.Into > data.Size-8:
		return errNotObserved
	}
	report := func(at address, name, observed, expected, explanation string) {
		s.out.Findings = append(s.out.Findings, measure.Finding{Address: at.String(), Symbol: name, Observed: observed, Expected: expected, Explanation: explanation})
	}
	for _, f := range data.Silent {
		report(f.At, s.path(mem.Virt(f.At)), f.Why, "a call of "+f.Function, "a security hook is registered, and the kernel does not call it")
	}
	for _, a := range data.Arrays {
		if a.Registered != a.Count && (a.Registered != 0 || a.Name == "capability_hooks") {
			report(a.At, a.Name, fmt.Sprintf("%d of %d", a.Registered, a.Count), fmt.Sprintf("%d", a.Count), "a security module's hooks are not all registered")
		}
	}
	for _, array := range kernel.HookArrays(s.image.Symbols, s.code.slide) {
		want := s.hooksOf(data, array, table, s.code.symbols.Next(table))
		i := slices.IndexFunc(data.Arrays, func(a hookArrayFact) bool { return a.At == address(array.At) })
		have := 0
		if i >= 0 {
			have = data.Arrays[i].Count
		}
		if have != want {
			report(address(array.At), array.Name, fmt.Sprintf("%d hooks", have), fmt.Sprintf("%d hooks", want), "a security module has other hooks than the file")
		}
	}
	return nil
}

// hooksOf counts the hooks of an array that the image has: each has a pointer into
// the table through which the kernel calls hooks.
func (s *slotJudge) hooksOf(data *hooksData, array kernel.HookArray, table, end uint64) (n int) {
	for at := array.At; at+mem.Virt(data.Size) <= array.End; at += mem.Virt(data.Size) {
		into, ok := s.image.Pointer(uint64(at)+data.Into, s.code.slide)
		if !ok || into < table || into >= end {
			return n
		}
		n++
	}
	return n
}
