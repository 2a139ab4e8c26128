//go:build lab

package check_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// TestMeasuresStartingModule stops a machine in the middle of a module's start: all that
// can be executed of it is compared. A byte of it that is another is not measured.
func TestMeasuresStartingModule(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	m.ShellT(t, "touch /run/churn; (while test -e /run/churn; do modprobe dummy numdummies=9; sleep 0.2; modprobe -r dummy; sleep 0.2; done; touch /run/churned) <&- >/dev/null 2>&1 &")
	t.Cleanup(func() {
		if _, err := m.Shell(context.Background(), "rm /run/churn; until test -e /run/churned; do sleep 0.1; done; rm /run/churned"); err != nil {
			t.Error(err)
		}
	})
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	checks := []string{"modules.text", "linux.pagetables"}
	var result *check.Result
	outcome := func(name string, obs *measure.Observations) measure.Check {
		return find(t, judge(t, obs, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks}), name)
	}
	for stops := 1; ; stops++ {
		resume := stopWhileLoading(t, vm, "dummy")
		result, err = check.Scan(t.Context(), vm, &check.Options{Profiles: &s.profiles, Checks: checks})
		if err := errors.Join(err, resume()); err != nil {
			t.Fatal(err)
		}
		text, tables := outcome(checks[0], result.Observations), outcome(checks[1], result.Observations)
		if text.Outcome == measure.Pass && tables.Outcome == measure.Pass {
			break
		}
		// It may have been stopped in the middle of a patch, or what the module had before
		// may not have been freed yet.
		elsewhere := func(c measure.Check, unlike string) bool {
			patching := strings.Contains(c.Reason, "patching")
			return c.Outcome == measure.Pass || c.Outcome == measure.NotMeasured && (patching || !strings.Contains(c.Reason, unlike))
		}
		if !elsewhere(text, "dummy") || !elsewhere(tables, "their start") || stops == 10 {
			t.Fatalf("%s %s %+v, %s %s %+v", text.Outcome, text.Reason, text.Findings, tables.Outcome, tables.Reason, tables.Findings)
		}
		t.Logf("stopped elsewhere: %s %s", text.Reason, tables.Reason)
	}
	for is, change := range map[string]func(data map[string]any){
		"changed":        func(data map[string]any) { changePage(t, regionOf(data["starts"], "dummy"), result.Pages) },
		"not read":       func(data map[string]any) { delete(data, "starts") },
		"not all of it":  func(data map[string]any) { growExecutable(t, data) },
		"somewhere else": func(data map[string]any) { regionOf(data["starts"], "dummy")["name"] = "loop" },
	} {
		obs := *result.Observations
		obs.Items = slices.Clone(obs.Items)
		editItem(t, &obs, "linux.pagetables", change)
		if c := outcome("linux.pagetables", &obs); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "dummy") {
			t.Errorf("%s: %s %s %+v", is, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// growExecutable has one page more be executable behind the code of a start.
func growExecutable(t *testing.T, data map[string]any) {
	t.Helper()
	start := regionOf(data["starts"], "dummy")["start"]
	for _, one := range data["executable"].([]any) {
		if r := one.(map[string]any); r["start"] == start {
			r["size"] = r["size"].(float64) + 4096
			return
		}
	}
	t.Error("nothing that is executable begins with the code of the start")
}

// stopWhileLoading stops a machine, again and again, until a module is being loaded,
// and some of its memory for its start can be executed.
func stopWhileLoading(t *testing.T, vm *qemu.VM, name string) (resume func() error) {
	t.Helper()
	profile := profileOf(t, vm)
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		resume, err := vm.Pause(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		modules, _ := profile.Modules()
		i := slices.IndexFunc(modules, func(m kernel.LoadedModule) bool { return m.Name == name && m.State == 1 })
		if i >= 0 {
			if _, ok := modules[i].Area(kernel.AreaInit); ok {
				t.Logf("%s is being loaded, and says where %d sections are", name, len(modules[i].Sections))
				return resume
			}
		}
		if err := resume(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s was not seen while it was loaded", name)
	return nil
}
