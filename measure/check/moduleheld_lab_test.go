//go:build lab

package check_test

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
)

// TestTextUnderLock: what is explained in text that was read under the lock for changes
// is explained; what is not may be half of a patch there, and is a finding elsewhere.
func TestTextUnderLock(t *testing.T) {
	s := newScanner(t, sharedMachine(t))
	result := s.outside(t)
	for _, name := range []string{"linux.text", "modules.text"} {
		outcome := func(changes ...func(region map[string]any)) measure.Check {
			obs := *result.Observations
			obs.Items = slices.Clone(obs.Items)
			editItem(t, &obs, name, func(data map[string]any) {
				r, ok := data["text"].(map[string]any)
				if !ok {
					r = data["modules"].([]any)[0].(map[string]any)
				}
				for _, change := range changes {
					change(r)
				}
			})
			checks := []string{name}
			return find(t, judge(t, &obs, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks}), name)
		}
		tamper := func(r map[string]any) { changePage(t, r, result.Pages) }
		hold := func(r map[string]any) { r["held"] = []any{r["start"]} }
		if c := outcome(hold); c.Outcome != measure.Pass {
			t.Errorf("%s, under the lock: %s %s %+v", name, c.Outcome, c.Reason, c.Findings)
		}
		if c := outcome(tamper); c.Outcome != measure.Fail {
			t.Errorf("%s, tampered with: %s %s", name, c.Outcome, c.Reason)
		}
		if c := outcome(tamper, hold); c.Outcome != measure.NotMeasured || len(c.Findings) > 0 || !strings.Contains(c.Reason, "patching") {
			t.Errorf("%s, tampered with under the lock: %s %s %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// changePage changes a byte in the first page of a region, as it was observed.
func changePage(t *testing.T, region map[string]any, pages check.Pages) {
	t.Helper()
	digests, err := base64.StdEncoding.DecodeString(region["digests"].(string))
	if err != nil {
		t.Fatal(err)
	}
	page := slices.Clone(pages[check.Digest(digests)])
	if len(page) == 0 {
		t.Fatal("the first page was not read")
	}
	page[100] ^= 0xff
	d := check.DigestOf(page)
	pages[d] = page
	copy(digests, d[:])
	region["digests"] = base64.StdEncoding.EncodeToString(digests)
}

// TestModuleBeingMade: a module that is not executable yet, and whose sections are
// nowhere, is told and holds nothing up. One whose memory can be executed is compared
// as its file lays it out, if that fits its memory, and what differs is not measured:
// it may not be what it is to be.
func TestModuleBeingMade(t *testing.T) {
	m := sharedMachine(t)
	m.ShellT(t, "modprobe dummy numdummies=0")
	t.Cleanup(func() {
		if _, err := m.Shell(context.Background(), "modprobe -r dummy"); err != nil {
			t.Error(err)
		}
	})
	s := newScanner(t, m)
	result := s.outside(t)
	coming := map[string]any{"live": false, "state": 1}
	start := map[string]any{"kind": "init", "size": 1 << 20} // where it was: its tables lead there
	editItem(t, result.Observations, "linux.modules", func(data map[string]any) {
		for _, one := range regionOf(data["modules"], "dummy")["sections"].([]any) {
			if section := one.(map[string]any); section["name"] == ".init.text" {
				start["start"] = section["at"]
			}
		}
	})
	none := func(*measure.Observations) {}
	for is, tt := range map[string]struct {
		edit   map[string]any
		area   map[string]any // one more
		tamper func(*measure.Observations)
		want   measure.Outcome
	}{
		"not executable":         {map[string]any{"live": false, "state": 3, "dormant": true}, nil, none, measure.Pass},
		"executable":             {map[string]any{"live": false, "state": 3}, start, none, measure.Pass},
		"nothing for its start":  {coming, nil, none, measure.NotMeasured},
		"too little of it":       {coming, map[string]any{"kind": "init", "start": "0xffffffffc0000000", "size": 16}, none, measure.NotMeasured},
		"more text than it has":  {coming, map[string]any{"kind": "text", "start": "0xffffffffc0000000", "size": 1 << 20}, none, measure.NotMeasured},
		"says that it is loaded": {map[string]any{"dormant": true}, nil, none, measure.NotMeasured},
		"not what its file has": {coming, start, func(obs *measure.Observations) {
			editItem(t, obs, "modules.text", func(data map[string]any) { changePage(t, regionOf(data["modules"], "dummy"), result.Pages) })
			editItem(t, obs, "modules.rodata", func(data map[string]any) {
				changeWords(t, regionOf(data["modules"], "dummy"), result.Pages, func([]byte) bool { return true })
			})
			editItem(t, obs, "modules.pointers", func(data map[string]any) {
				changeWords(t, regionOf(data["data"], "dummy"), result.Pages, ofKernel)
			})
		}, measure.NotMeasured},
	} {
		obs := *result.Observations
		obs.Items = slices.Clone(obs.Items)
		editItem(t, &obs, "linux.modules", func(data map[string]any) {
			fact := regionOf(data["modules"], "dummy")
			delete(fact, "sections")
			maps.Copy(fact, tt.edit)
			if areas := fact["areas"].([]any); tt.area != nil {
				fact["areas"] = append([]any{tt.area}, areas...)
			}
		})
		tt.tamper(&obs)
		checks := []string{"modules.text", "modules.rodata", "modules.pointers"}
		r := judge(t, &obs, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks})
		for _, name := range checks {
			c := find(t, r, name)
			told := slices.ContainsFunc(c.Notes, func(n measure.Finding) bool { return n.Symbol == "dummy" })
			if c.Outcome != tt.want || told != (is == "not executable" && name == "modules.text") {
				t.Errorf("%s: %s: %s %s %+v %+v", is, name, c.Outcome, c.Reason, c.Notes, c.Findings)
			}
		}
	}
}

// regionOf returns one of a list by its name.
func regionOf(list any, name string) map[string]any {
	for _, one := range list.([]any) {
		if fact := one.(map[string]any); fact["name"] == name {
			return fact
		}
	}
	return nil
}

// ofKernel reports whether a word is an address of the kernel or a module.
func ofKernel(word []byte) bool { return word[7] == 0xff && word[4] == 0xff }

// changeWords changes the lowest bit of some words of a region.
func changeWords(t *testing.T, region map[string]any, pages check.Pages, which func(word []byte) bool) {
	t.Helper()
	digests, err := base64.StdEncoding.DecodeString(region["digests"].(string))
	if err != nil {
		t.Fatal(err)
	}
	size := len(check.Digest{})
	for at := 0; at+size <= len(digests); at += size {
		page := slices.Clone(pages[check.Digest(digests[at:at+size])])
		for i := 0; i+8 <= len(page); i += 8 {
			if which(page[i : i+8]) {
				page[i] ^= 0x01
			}
		}
		d := check.DigestOf(page)
		pages[d] = page
		copy(digests[at:], d[:])
	}
	region["digests"] = base64.StdEncoding.EncodeToString(digests)
}
