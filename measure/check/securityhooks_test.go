package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// A security module's hooks are all registered, or none; those of capability always.
func TestSecurityHooksJudged(t *testing.T) {
	const at = 0xffffffff82a00000
	of := func(name string, count, registered int) []hookArrayFact {
		return []hookArrayFact{{Name: name, At: at, Count: count, Registered: registered}}
	}
	for name, tt := range map[string]struct {
		data     hooksData
		none     bool // the kernel has no security modules
		findings int
		measured bool
	}{
		"all":                {data: hooksData{Size: 40, Arrays: of("apparmor_hooks", 70, 70)}, measured: true},
		"none":               {data: hooksData{Size: 40, Arrays: of("apparmor_hooks", 70, 0)}, measured: true},
		"one less":           {data: hooksData{Size: 40, Arrays: of("apparmor_hooks", 70, 69)}, findings: 1, measured: true},
		"no capability":      {data: hooksData{Size: 40, Arrays: of("capability_hooks", 17, 0)}, findings: 1, measured: true},
		"one that is silent": {data: hooksData{Size: 40, Silent: []silentFact{{At: at}}}, findings: 1, measured: true},
		"could not be read":  {data: hooksData{Unread: "why"}},
		"not observed":       {},
		"no structure":       {data: hooksData{Size: 4, Into: 8}},
		"no modules":         {none: true, measured: true},
	} {
		t.Run(name, func(t *testing.T) {
			var list []kernel.Symbol
			if !tt.none {
				list = append(list, kernel.Symbol{Addr: at - 0x1000, Kind: 'd', Name: "security_hook_heads"})
			}
			var out measure.Check
			j := &judging{image: &kernel.Image{Symbols: kernel.NewSymbols(list)}, code: code{symbols: kernel.NewSymbols(list)}}
			err := (&slotJudge{judging: j, out: &out}).hooks(&tt.data)
			if (err == nil) != tt.measured || len(out.Findings) != tt.findings {
				t.Errorf("%v, %+v", err, out.Findings)
			}
		})
	}
	// The image has an array that the scan did not report as such.
	list := []kernel.Symbol{{Addr: at - 0x1000, Kind: 'd', Name: "security_hook_heads"}, {Addr: at, Kind: 'd', Name: "__start_ro_after_init"},
		{Addr: at, Kind: 'd', Name: "yama_hooks"}, {Addr: at + 0x1000, Kind: 'd', Name: "__end_ro_after_init"}}
	var out measure.Check
	j := &judging{image: &kernel.Image{Symbols: kernel.NewSymbols(list)}, code: code{symbols: kernel.NewSymbols(list)}}
	err := (&slotJudge{judging: j, out: &out}).hooks(&hooksData{Size: 40, Arrays: of("yama_hooks", 4, 4)})
	if err != nil || len(out.Findings) != 1 {
		t.Errorf("another number of hooks than the image has: %v, %+v", err, out.Findings)
	}
}
