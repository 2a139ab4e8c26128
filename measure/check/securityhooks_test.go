package check

import (
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

const hookAt = 0xffffffff82a00000

// hookJudge judges hooks of a kernel with these symbols.
func hookJudge(list ...kernel.Symbol) *slotJudge {
	symbols := kernel.NewSymbols(list)
	j := &judging{obs: &measure.Observations{}, image: &kernel.Image{Symbols: symbols}, code: code{symbols: symbols}, refs: &References{}, asked: make(map[Digest]bool)}
	return &slotJudge{judging: j, out: &measure.Check{}, check: pointersName}
}

// A security module's hooks are all registered, or none; those of capability always.
func TestSecurityHooksJudged(t *testing.T) {
	of := func(name string, count, registered int) []hookArrayFact {
		return []hookArrayFact{{Name: name, At: hookAt, Count: count, Registered: registered}}
	}
	for name, tt := range map[string]struct {
		data     hooksData
		findings int
	}{
		"all":                {data: hooksData{Arrays: of("apparmor_hooks", 70, 70)}},
		"none":               {data: hooksData{Arrays: of("apparmor_hooks", 70, 0)}},
		"one less":           {data: hooksData{Arrays: of("apparmor_hooks", 70, 69)}, findings: 1},
		"no capability":      {data: hooksData{Arrays: of("capability_hooks", 17, 0)}, findings: 1},
		"one that is silent": {data: hooksData{Silent: []silentFact{{At: hookAt}}}, findings: 1},
	} {
		s := hookJudge()
		if s.registered(&tt.data); len(s.out.Findings) != tt.findings {
			t.Errorf("%s: %+v", name, s.out.Findings)
		}
	}
}

// Hooks that could not be compared with the file are not measured.
func TestSecurityHooksNotMeasured(t *testing.T) {
	heads := kernel.Symbol{Addr: hookAt, Kind: 'd', Name: "security_hook_heads"}
	for name, data := range map[string]hooksData{
		"could not be read":         {Unread: "why"},
		"not observed":              {},
		"no structure":              {Size: 4, Into: 8},
		"an image that has no hook": {Size: 40, Into: 16},
	} {
		if err := hookJudge(heads).hooks(&data, &region{}); err == nil {
			t.Errorf("%s: is measured", name)
		}
		if err := hookJudge().hooks(&data, &region{}); err != nil {
			t.Errorf("%s, in a kernel without security modules: %v", name, err)
		}
	}
	slots := []kernel.PointerSlot{{At: hookAt + mem.PageSize, Fixed: true}}
	if err := hookJudge().hookSlots(&hooksData{}, &region{Start: hookAt, Digests: make([]byte, 32)}, slots); err == nil {
		t.Error("a hook behind the data: is measured")
	}
}

// The arrays of the image, and the branches of its keys, are those of the target.
func TestDetectsOtherHooks(t *testing.T) {
	const key = hookAt + 0x1000
	arrays := []hookArrayFact{{Name: "yama_hooks", At: hookAt, Count: 4, Registered: 4}}
	want := &kernel.ImageHooks{Arrays: []kernel.SecurityHooks{{Name: "yama_hooks", At: hookAt, Count: 4}},
		Jumps: map[mem.Virt][]kernel.JumpSite{key: {{At: 9, Likely: true}, {At: 7}}}}
	for name, tt := range map[string]struct {
		arrays   []hookArrayFact
		keys     []keyFact
		findings int
	}{
		"the same":              {arrays, []keyFact{{key, []jumpFact{{7, false}, {9, true}}}}, 0},
		"a key that is off":     {arrays, nil, 0},
		"a key of no branch":    {arrays, []keyFact{{key + 16, []jumpFact{}}}, 0}, // of hooks that are called otherwise
		"another's key":         {arrays, []keyFact{{key + 16, []jumpFact{{7, false}}}}, 1},
		"no branch":             {arrays, []keyFact{{key, nil}}, 1},
		"one branch less":       {arrays, []keyFact{{key, []jumpFact{{9, true}}}}, 1},
		"elsewhere":             {arrays, []keyFact{{key, []jumpFact{{7, false}, {10, true}}}}, 1},
		"the other way round":   {arrays, []keyFact{{key, []jumpFact{{7, true}, {9, true}}}}, 1},
		"no array":              {nil, nil, 1},
		"an array of one fewer": {[]hookArrayFact{{Name: "yama_hooks", At: hookAt, Count: 3}}, nil, 1},
	} {
		s := hookJudge()
		if s.hooksOf(&hooksData{Arrays: tt.arrays, Keys: tt.keys}, want); len(s.out.Findings) != tt.findings {
			t.Errorf("%s: %+v", name, s.out.Findings)
		}
	}
}

// An attacker unlinks a hook and has it say that it is another's, or has the call of a
// hook go by a static key that is on for another reason.
func TestDetectsHookLedElsewhere(t *testing.T) {
	const head, key = hookAt + 0x2000, hookAt + 0x3000
	slots := []kernel.PointerSlot{{At: hookAt + 16, Target: head, Fixed: true}, {At: hookAt + 0x1018, Target: key, Fixed: true}}
	for name, tt := range map[string]struct {
		head, key uint64
		findings  int
	}{
		"as the file has them": {head, key, 0},
		"another head":         {head + 8, key, 1},
		"another key":          {head, key + 16, 1},
		"neither":              {0, 0, 2},
	} {
		s := hookJudge()
		pages := make(Pages)
		s.refs.Pages = pages
		r := &region{Start: hookAt}
		for _, page := range [2][]byte{make([]byte, mem.PageSize), make([]byte, mem.PageSize)} {
			if len(r.Digests) == 0 {
				binary.LittleEndian.PutUint64(page[16:], tt.head)
			} else {
				binary.LittleEndian.PutUint64(page[0x18:], tt.key)
			}
			d := DigestOf(page)
			pages[d] = page
			r.Digests = append(r.Digests, d[:]...)
		}
		if err := s.hookSlots(&hooksData{}, r, slots); err != nil || len(s.out.Findings) != tt.findings || len(s.missing) > 0 {
			t.Errorf("%s: %v, %+v", name, err, s.out.Findings)
		}
	}
}
