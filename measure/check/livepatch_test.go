package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// TestDetectsLivepatchElsewhere: what a live patch leads to has to be the start of
// a function, of the kernel or of a module on the list.
func TestDetectsLivepatchElsewhere(t *testing.T) {
	j := &judging{code: code{kernel: textRange{0x1000, 0x3000}, symbols: kernel.NewSymbols([]kernel.Symbol{{Addr: 0x2000, Kind: 't', Name: "other"}}),
		modules: []moduleFact{{Name: "patch", Areas: []areaFact{{kernel.AreaText, 0x8000, 0x1000}}}}}}
	for name, tt := range map[string]struct {
		to      pointer
		finding bool
	}{
		"a function of the kernel": {pointer{Value: 0x2000}, false},
		"the middle of one":        {pointer{Value: 0x2004}, true},
		"a function of a module":   {pointer{Value: 0x8010, Symbol: "patch:new"}, false},
		"behind its start":         {pointer{Value: 0x8014, Symbol: "patch:new+0x4"}, true},
		"anywhere":                 {pointer{Value: 0x9000}, true},
	} {
		var out measure.Check
		err := j.livepatched(&patchingData{Livepatches: []livepatchFact{{Old: 0x1000, New: tt.to}}}, &out)
		if err != nil || (len(out.Findings) > 0) != tt.finding || (len(out.Notes) > 0) == tt.finding {
			t.Errorf("%s: %v, findings %+v, notes %+v", name, err, out.Findings, out.Notes)
		}
	}
	if err := j.livepatched(&patchingData{LivepatchesUnread: "a loop"}, &measure.Check{}); err == nil {
		t.Error("live patches that could not be read pass")
	}
}
