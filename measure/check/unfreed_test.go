package check

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A module off the list that is not live and that a task is about to free is not
// measured, but waited for. One that nobody frees is a finding, and so is one that
// says that it is live, which is not waited for: it has hidden itself.
func TestModuleBeingFreed(t *testing.T) {
	const (
		top    = freedStack + stackSize - 0x100
		module = freedBase + 0xe000
	)
	inHand := map[mem.Virt]uint64{top + 8: freedText + 0x220, top + 16: module}
	for name, tt := range map[string]struct {
		state   uint64
		words   map[mem.Virt]uint64
		waits   bool
		finding bool
	}{
		"unformed, in hand":                {3, inHand, true, false},
		"failed to load, in hand":          {2, inHand, true, false},
		"unformed, in nobody's hand":       {3, nil, true, true},
		"unformed, in that of another":     {3, map[mem.Virt]uint64{top + 8: freedText + 0x120, top + 16: module}, true, true},
		"unformed, while another is freed": {3, map[mem.Virt]uint64{top + 8: freedText + 0x220, top + 16: module + 0x40}, true, true},
		"live, in hand":                    {0, inHand, false, true},
		"live, in nobody's hand":           {0, nil, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				words := map[mem.Virt]uint64{module: tt.state}
				for at, value := range tt.words {
					words[at] = value
				}
				c := freedCollector(t, words)
				modules := map[address]hiddenFact{module: {Name: "m", At: module, View: "memory"}}
				began := time.Now()
				c.awaitFreed(modules)
				if waited := time.Since(began) >= unfreedPatience; waited != tt.waits {
					t.Errorf("waited %v", time.Since(began))
				}
				err := c.dropUnfreed(modules)
				if (len(modules) == 1) != tt.finding || errors.Is(err, errUnfreed) == tt.finding {
					t.Errorf("%v, found %v", err, modules)
				}
			})
		})
	}
}

// A dump is judged as it is.
func TestModuleBeingFreedInDump(t *testing.T) {
	const module = freedBase + 0xe000
	synctest.Test(t, func(t *testing.T) {
		c := freedCollector(t, map[mem.Virt]uint64{module: 3})
		c.still = true
		began := time.Now()
		if c.awaitFreed(map[address]hiddenFact{module: {}}); time.Since(began) > 0 {
			t.Error("waited for a dump")
		}
	})
}
