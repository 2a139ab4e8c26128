package check

import (
	"cmp"
	"errors"
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
	Keys   []keyFact       `json:"keys,omitempty"`   // since 6.12: those that are on
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

// keyFact is a static key that leads to the call of a hook.
type keyFact struct {
	At    address    `json:"at"`
	Jumps []jumpFact `json:"jumps"` // where the table of jump labels has branches that go by it
}

type jumpFact struct {
	At     address `json:"at"`
	Likely bool    `json:"likely,omitempty"` // it jumps while the key is off
}

// jumpFacts are the branches of a static key, in the order of their addresses.
func jumpFacts(jumps []kernel.JumpSite) []jumpFact {
	out := make([]jumpFact, 0, len(jumps))
	for _, j := range jumps {
		out = append(out, jumpFact{address(j.At), j.Likely})
	}
	slices.SortFunc(out, func(a, b jumpFact) int { return cmp.Compare(a.At, b.At) })
	return out
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
		for _, key := range slices.Sorted(maps.Keys(layout.Jumps)) {
			data.Keys = append(data.Keys, keyFact{address(key), jumpFacts(layout.Jumps[key])})
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
// registered or none, each that is registered is called, and what leads from it to its
// call is what the file has. r is the data that they lie in, nil if that was not read.
func (s *slotJudge) hooks(data *hooksData, r *region) error {
	want, err := s.image.SecurityHooks(kernel.SecurityLayout{Size: data.Size, Into: data.Into}, s.code.slide)
	switch {
	case err == nil && want == nil: // the kernel has no security modules
		return nil
	case data.Unread != "":
		return fmt.Errorf("security hooks could not be read: %s", data.Unread)
	case err != nil:
		return fmt.Errorf("security hooks: %w", err)
	}
	s.registered(data)
	s.hooksOf(data, want)
	return s.hookSlots(data, r, want.Slots)
}

// hookSlots holds what leads from hooks to their calls against the file.
func (s *slotJudge) hookSlots(data *hooksData, r *region, slots []kernel.PointerSlot) error {
	if r == nil || len(slots) == 0 {
		return nil
	}
	if slots[0].At < r.page(0) || slots[len(slots)-1].At+8 > r.page(r.pages()) {
		return errors.New("security hooks: the file has them in memory that is not read-only after boot")
	}
	defer func(before []byte) { s.anchor = before }(s.anchor)
	s.anchor = fmt.Appendf(nil, "security hooks of %d %d ", data.Size, data.Into)
	return s.slots(r, slots)
}

// registered judges what the target's own hooks say.
func (s *slotJudge) registered(data *hooksData) {
	for _, f := range data.Silent {
		s.report(f.At, s.path(mem.Virt(f.At)), f.Why, "a call of "+f.Function, "a security hook is registered, and the kernel does not call it")
	}
	for _, a := range data.Arrays {
		if a.Registered != a.Count && (a.Registered != 0 || a.Name == "capability_hooks") {
			s.report(a.At, a.Name, fmt.Sprintf("%d of %d", a.Registered, a.Count), fmt.Sprintf("%d", a.Count), "a security module's hooks are not all registered")
		}
	}
}

// hooksOf holds how many hooks there are, and which branches lead to their calls,
// against the file.
func (s *slotJudge) hooksOf(data *hooksData, want *kernel.ImageHooks) {
	for _, array := range want.Arrays {
		i := slices.IndexFunc(data.Arrays, func(a hookArrayFact) bool { return a.At == address(array.At) })
		have := 0
		if i >= 0 {
			have = data.Arrays[i].Count
		}
		if have != array.Count {
			s.report(address(array.At), array.Name, fmt.Sprintf("%d hooks", have), fmt.Sprintf("%d hooks", array.Count), "a security module has other hooks than the file")
		}
	}
	for _, key := range data.Keys {
		jumps := jumpFacts(want.Jumps[mem.Virt(key.At)])
		if !slices.Equal(key.Jumps, jumps) {
			s.report(key.At, s.path(mem.Virt(key.At)), fmt.Sprintf("branches %v", key.Jumps), fmt.Sprintf("branches %v", jumps),
				"the table of jump labels has other branches for the static key of a security hook than the file")
		}
	}
}

func (s *slotJudge) report(at address, name, observed, expected, explanation string) {
	s.out.Findings = append(s.out.Findings, measure.Finding{Address: at.String(), Symbol: name, Observed: observed, Expected: expected, Explanation: explanation})
}

// fixed judges a place that the kernel never changes.
func (s *slotJudge) fixed(slot kernel.PointerSlot, value address) {
	if value == address(slot.Target) {
		return
	}
	expected := address(slot.Target).String()
	if name, start, ok := s.code.symbols.Lookup(uint64(slot.Target)); ok {
		expected += " (" + withOffset(name, uint64(slot.Target)-start) + ")"
	}
	s.out.Findings = append(s.out.Findings, s.finding(pointer{Path: s.path(slot.At), At: address(slot.At), Value: value}, expected,
		"the pointer leads from a security hook to its call, and is not what the file has"))
}
