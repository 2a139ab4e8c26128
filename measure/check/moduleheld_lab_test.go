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
// nowhere, is told and holds nothing up. One whose memory can be executed does.
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
	for is, tt := range map[string]struct {
		edit map[string]any
		want measure.Outcome
	}{
		"not executable":         {map[string]any{"live": false, "state": 3, "dormant": true}, measure.Pass},
		"executable":             {map[string]any{"live": false, "state": 3}, measure.NotMeasured},
		"says that it is loaded": {map[string]any{"dormant": true}, measure.NotMeasured},
	} {
		obs := *result.Observations
		obs.Items = slices.Clone(obs.Items)
		editItem(t, &obs, "linux.modules", func(data map[string]any) {
			for _, one := range data["modules"].([]any) {
				if fact := one.(map[string]any); fact["name"] == "dummy" {
					delete(fact, "sections")
					maps.Copy(fact, tt.edit)
				}
			}
		})
		checks := []string{"modules.text", "modules.rodata", "modules.pointers"}
		r := judge(t, &obs, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks})
		for _, name := range checks {
			c := find(t, r, name)
			told := slices.ContainsFunc(c.Notes, func(n measure.Finding) bool { return n.Symbol == "dummy" })
			if c.Outcome != tt.want || told != (tt.want == measure.Pass && name == "modules.text") {
				t.Errorf("%s: %s: %s %s %+v", is, name, c.Outcome, c.Reason, c.Notes)
			}
		}
	}
}
