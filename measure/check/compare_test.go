package check

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
)

// viewed adds to recorded observations the digests of some text, which they lack.
func viewed(t *testing.T) *measure.Observations {
	t.Helper()
	obs := recorded(t)
	pages := func(name string, at address, n int) region {
		r := region{Name: name, Start: at}
		for i := range n {
			d := DigestOf([]byte{byte(at >> 20), byte(i)})
			r.Digests = append(r.Digests, d[:]...)
		}
		return r
	}
	for name, data := range map[string]any{
		textName:       textData{Text: pages("text", 0xffffffff81000000, 200)},
		initName:       initData{Text: pages("init text", 0xffffffff82000000, 20)},
		moduleTextName: moduleTextData{Modules: []region{pages("a", 0xffffffffc0100000, 3), pages("b", 0xffffffffc0200000, 3), pages("c", 0xffffffffc0300000, 3)}},
	} {
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		obs.Items = append(obs.Items, measure.Observation{Check: name, Data: raw})
	}
	return obs
}

func TestAcceptsEqualViews(t *testing.T) {
	inside, outside := viewed(t), viewed(t)
	outside.TakenAt = inside.TakenAt.Add(3 * time.Second)
	c := CompareViews(inside, outside)
	if c.Outcome != measure.Pass || c.Coverage.Objects < 1200 || !strings.Contains(c.Reason, "3s") {
		t.Errorf("%s (%s), %d compared: %+v", c.Outcome, c.Reason, c.Coverage.Objects, c.Findings)
	}
}

// What the machine shows of itself is changed after the fact, as a kernel would
// that hides what it did.
func TestDetectsLies(t *testing.T) {
	tests := map[string]struct {
		lie  func(*testing.T, *measure.Observations)
		says string
	}{
		"a page of text": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, textName, func(d *textData) { d.Text.Digests[32*100] ^= 1 })
		}, "page of linux.text"},
		"a page of a module": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, moduleTextName, func(d *moduleTextData) { d.Modules[2].Digests[3] ^= 1 })
		}, "page of modules.text"},
		"a page that is not shown": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, textName, func(d *textData) { clear(d.Text.Digests[32*7 : 32*8]) })
		}, "page of linux.text"},
		"an interrupt gate": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, idtName, func(d *idtData) { d.Tables[0].Gates[14].Handler.Value += 16 })
		}, "idt[0x0e]"},
		"a module that is hidden": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, modulesName, func(d *modulesData) { d.Modules = slices.Delete(d.Modules, 3, 4) })
		}, "module "},
		"a module that is made up": {func(t *testing.T, o *measure.Observations) {
			edit(t, o, modulesName, func(d *modulesData) { d.Modules = append(d.Modules, moduleFact{Name: "decoy"}) })
		}, "module decoy"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inside, outside := viewed(t), viewed(t)
			tt.lie(t, inside)
			c := CompareViews(inside, outside)
			if c.Outcome != measure.Fail || len(c.Findings) != 1 || !strings.HasPrefix(c.Findings[0].Symbol, tt.says) {
				t.Errorf("%s (%s): %+v", c.Outcome, c.Reason, c.Findings)
			}
		})
	}
}

// What the kernel changed between the views does not count if there is one from
// outside on each side of it.
func TestAcceptsChangesInBetween(t *testing.T) {
	before, inside, after := viewed(t), viewed(t), viewed(t)
	patch := func(d *textData) { d.Text.Digests[32*100] ^= 1 }
	load := func(d *modulesData) { d.Modules = append(d.Modules, moduleFact{Name: "dummy"}) }
	edit(t, inside, textName, patch)
	edit(t, after, textName, patch)
	edit(t, after, modulesName, load)
	if c := CompareViews(inside, before, after); c.Outcome != measure.Pass {
		t.Errorf("%s (%s): %+v", c.Outcome, c.Reason, c.Findings)
	}
	if c := CompareViews(inside, before); c.Outcome != measure.Fail {
		t.Errorf("without the later view: %s (%s)", c.Outcome, c.Reason)
	}
}

// The memory of init text was given back: whoever got it writes it.
func TestAcceptsReusedInitMemory(t *testing.T) {
	inside, outside := viewed(t), viewed(t)
	edit(t, inside, initName, func(d *initData) { d.Text.Digests[32*3] ^= 1 })
	if c := CompareViews(inside, outside); c.Outcome != measure.Pass {
		t.Errorf("%s (%s): %+v", c.Outcome, c.Reason, c.Findings)
	}
}

// Views that cannot be compared are not a pass.
func TestViewsNotMeasured(t *testing.T) {
	other, nothing, blind := viewed(t), viewed(t), viewed(t)
	other.Kernel.TextBase = "0xffffffff91000000"
	nothing.Items = nil
	blind.Kernel = measure.Kernel{}
	for name, c := range map[string]measure.Check{
		"none":            CompareViews(viewed(t)),
		"another boot":    CompareViews(other, viewed(t)),
		"nothing seen":    CompareViews(nothing, viewed(t)),
		"no kernel found": CompareViews(blind, viewed(t)),
		"the same, twice": CompareViews(blind, blind),
	} {
		if c.Outcome != measure.NotMeasured || c.Reason == "" {
			t.Errorf("%s: %s (%s)", name, c.Outcome, c.Reason)
		}
	}
}
