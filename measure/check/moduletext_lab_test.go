//go:build lab

package check_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// TestModulesReadLater: the text of modules is not read at the same moment as what
// the kernel patches by. When KVM is reloaded in between, its calls go elsewhere
// than linux.text has it, which is no finding; they are one when nothing changed.
func TestModulesReadLater(t *testing.T) {
	m := sharedMachine(t)
	obs, outcome := scanModuleText(t, m)
	if c := outcome(); c.Outcome != measure.Pass {
		t.Fatalf("as it is: %s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
	turnStaticCall(t, obs, m.ShellT(t, "grep -w __SCK__kvm_x86_vcpu_run /proc/kallsyms"))
	if c := outcome(); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "changed while the scan ran") {
		t.Errorf("read at another time: %s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
	editItem(t, obs, "modules.text", func(data map[string]any) { delete(data, "patching") })
	if c := outcome(); c.Outcome != measure.Fail || !strings.Contains(c.Findings[0].Explanation, "static call") {
		t.Errorf("nothing says that it changed: %s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
}

// scanModuleText scans for modules.text; outcome judges the observations as they
// are then.
func scanModuleText(t *testing.T, m *lab.Machine) (obs *measure.Observations, outcome func() measure.Check) {
	t.Helper()
	s := newScanner(t, m)
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	checks := []string{"modules.text"}
	result, err := check.Scan(t.Context(), vm, &check.Options{Target: vm.Target(), Profiles: &s.profiles, Checks: checks})
	if err != nil {
		t.Fatal(err)
	}
	return result.Observations, func() measure.Check {
		return find(t, judge(t, result.Observations, &check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks}), "modules.text")
	}
}

// turnStaticCall has the facts of linux.text say that the static call of a line of
// kallsyms goes where another of them does.
func turnStaticCall(t *testing.T, obs *measure.Observations, line string) {
	t.Helper()
	key := "0x" + strings.Fields(line)[0]
	editItem(t, obs, "linux.text", func(data map[string]any) {
		calls := data["patching"].(map[string]any)["static_calls"].([]any)
		for _, one := range calls {
			if call := one.(map[string]any); call["key"] == key {
				for _, other := range calls {
					if to := other.(map[string]any)["func"]; to != call["func"] && to != "0x0" {
						call["func"] = to
						return
					}
				}
			}
		}
		t.Fatalf("no static call of %s", line)
	})
}

// editItem changes the data of one check's observation.
func editItem(t *testing.T, obs *measure.Observations, name string, change func(map[string]any)) {
	t.Helper()
	item := obs.Item(name)
	var data map[string]any
	if err := json.Unmarshal(item.Data, &data); err != nil {
		t.Fatal(err)
	}
	change(data)
	var err error
	if item.Data, err = json.Marshal(data); err != nil {
		t.Fatal(err)
	}
}

// TestCallsIntoUnloadedModule: KVM keeps its static calls when the module they go
// to is unloaded. They are no finding as long as nothing can be executed there.
func TestCallsIntoUnloadedModule(t *testing.T) {
	m := sharedMachine(t)
	m.ShellT(t, "modprobe kvm_amd && rmmod kvm_amd")
	t.Cleanup(func() {
		if _, err := m.Shell(context.Background(), "modprobe kvm_amd"); err != nil {
			t.Error(err)
		}
	})
	obs, outcome := scanModuleText(t, m)
	unloaded := func(n measure.Finding) bool { return strings.Contains(n.Explanation, "module that was unloaded") }
	if c := outcome(); c.Outcome != measure.Pass || !slices.ContainsFunc(c.Notes, unloaded) {
		t.Errorf("%s %s %+v, notes %+v", c.Outcome, c.Reason, c.Findings, c.Notes)
	}
	editItem(t, obs, "linux.text", func(data map[string]any) {
		for _, call := range data["patching"].(map[string]any)["static_calls"].([]any) {
			delete(call.(map[string]any), "gone")
		}
	})
	editItem(t, obs, "modules.text", func(data map[string]any) { delete(data, "patching") })
	if c := outcome(); c.Outcome != measure.Fail {
		t.Errorf("with code there that is nobody's: %s %s", c.Outcome, c.Reason)
	}
}

// TestCallsIntoModulesInTheirPlace: what KVM calls is where the module for the
// processor was, also if others were loaded there. Nothing tells such a call from one
// that somebody has made into the middle of a function: it is no finding, nor a pass.
func TestCallsIntoModulesInTheirPlace(t *testing.T) {
	m := sharedMachine(t)
	t.Cleanup(func() {
		if _, err := m.Shell(context.Background(), "for i in veth tun dummy bridge overlay; do modprobe -r $i; done; modprobe kvm_amd"); err != nil {
			t.Error(err)
		}
	})
	s := newScanner(t, m)
	outcome := func() measure.Check {
		r, _ := s.scan(t, "modules.text")
		return find(t, r, "modules.text")
	}
	var start, end uint64
	line := m.ShellT(t, `modprobe kvm_amd; sed -n 's/^kvm_amd \([0-9]*\) .* \(0x[0-9a-f]*\).*/\2 \1/p' /proc/modules; rmmod kvm_amd`)
	if _, err := fmt.Sscan(line, &start, &end); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	end += start
	for _, name := range []string{"veth", "tun", "dummy", "bridge", "overlay"} {
		var at uint64
		line := m.ShellT(t, "modprobe "+name+"; cat /sys/module/"+name+"/sections/.text")
		if _, err := fmt.Sscan(line, &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if at < start || at >= end {
			continue
		}
		if c := outcome(); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "kvm_amd or kvm_intel was") {
			t.Fatalf("with %s where kvm_amd was: %s %s %+v", name, c.Outcome, c.Reason, c.Findings)
		}
		m.ShellT(t, "modprobe kvm_amd")
		if c := outcome(); c.Outcome != measure.Pass {
			t.Errorf("with kvm_amd elsewhere: %s %s %+v", c.Outcome, c.Reason, c.Findings)
		}
		return
	}
	t.Fatalf("no module was loaded where kvm_amd was, %#x to %#x", start, end)
}
