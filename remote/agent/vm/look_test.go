package vm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
)

// listed is a whole state beside its baseline, in words.
func listed(t *testing.T, b *baseline.Baseline, s *baseline.State) string {
	t.Helper()
	var out strings.Builder
	err := baseline.ByName(b.Records(), s.Records, func(path string, old, new *baseline.Record) error {
		fmt.Fprintf(&out, "%s: ", path)
		if new != nil {
			fmt.Fprintf(&out, "%+v", *new)
		}
		if old != nil && new != nil {
			fmt.Fprintf(&out, ", kept %v", s.Kept(old, new))
		}
		fmt.Fprintln(&out)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// lookedAt has a scan be looked at: what it finds, changed or not, must be what a
// scan of everything on the image does.
func lookedAt(t *testing.T, s *Since, image string) *Since {
	t.Helper()
	s.Look = func(state *baseline.State) error {
		t.Helper()
		var want string
		snapshot(t, []string{image}, "", s.Baseline, s.Rules, func(_ *Files, snap *baseline.Snapshot) { want = listed(t, s.Baseline, snap.State()) })
		if state.Rules != s.Rules {
			t.Error("other rules")
		}
		if d := cmp.Diff(want, listed(t, s.Baseline, state)); d != "" {
			return fmt.Errorf("state of a full scan against this one:\n%s", d)
		}
		return nil
	}
	return s
}
