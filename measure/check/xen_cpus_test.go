package check

import (
	"context"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func xenCheckOf(t *testing.T, r *measure.Report, name string) measure.Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatal("no " + name)
	return measure.Check{}
}

// A CPU that runs a domain is judged by what it goes back to, and by what Xen has
// kept of its own registers of system calls.
func TestAcceptsRunningDomain(t *testing.T) {
	r := scanXen(t, xentest.RunHVM())
	if r.Outcome != measure.Pass || !strings.Contains(xenCheckOf(t, r, xenRegistersName).Reason, "CPU 0 ran a domain") ||
		!strings.Contains(xenCheckOf(t, r, xenMSRsName).Reason, "CPU 0 has those of domain 1") {
		t.Errorf("%s: %+v", r.Outcome, r.Checks)
	}
}

// The registers of a domain stay in the CPU while Xen runs, and while it idles.
func TestAcceptsLoadedDomain(t *testing.T) {
	m := xentest.RunHVM()
	m.CPUs[0].RIP = uint64(xentest.Address("cold"))
	m.CPUs[0].Virtualization.Guest = false
	if r := scanXen(t, m); r.Outcome != measure.Pass || !strings.Contains(xenCheckOf(t, r, xenMSRsName).Reason, "CPU 0 has those of domain 1") {
		t.Errorf("%s: %+v", r.Outcome, r.Checks)
	}
}

// Each attack by way of a domain that runs is found by the check meant for it, and
// by no other.
func TestDetectsWhileDomainRuns(t *testing.T) {
	type machine = xentest.Machine
	tests := map[string]struct {
		check  string
		change func(*machine)
	}{
		"where Xen goes on":          {xenRegistersName, func(m *machine) { m.CPUs[0].RIP = uint64(xentest.Address("cold")) }},
		"write protection":           {xenRegistersName, func(m *machine) { m.CPUs[0].CR0 &^= mem.CR0WP }},
		"another page for registers": {xenRegistersName, func(m *machine) { m.CPUs[0].Virtualization.HostState = xentest.Small }},
		"what Xen kept of LSTAR":     {xenMSRsName, func(m *machine) { m.Put64(xentest.HostVMCB+0x608, uint64(xentest.StubAt)+8) }},
		"a guest that is no domain":  {xenMSRsName, func(m *machine) { m.Load(false) }},
		"an address of system calls while a PV domain runs": {xenMSRsName, func(m *machine) {
			m.CPUs[0].Virtualization.Guest, m.CPUs[0].CPL = false, 3
		}},
		"an address of system calls while Xen runs": {xenMSRsName, func(m *machine) {
			m.CPUs[0].Virtualization.Guest = false
			m.Load(false)
		}},
		"the interrupt table": {xenIDTName, func(m *machine) {
			m.CPUs[0].IDT.Limit = 0x1fff
		}},
		"page tables": {xenPageTablesName, func(m *machine) { guest(m, 261, 0x10_0000); m.CPUs[0].CPL = 0 }},
	}
	for name, test := range tests {
		m := xentest.RunHVM()
		test.change(m)
		r := scanXen(t, m)
		for _, c := range r.Checks {
			if want := c.Name == test.check; (c.Outcome == measure.Fail) != want || !want && c.Outcome != measure.Pass {
				t.Errorf("%s: %s is %s %s %+v", name, c.Name, c.Outcome, c.Reason, c.Findings)
			}
		}
	}
}

// What cannot be had of a CPU is not measured, and recognition does not need it.
func TestDomainThatCannotBeLookedPast(t *testing.T) {
	m := xentest.RunHVM()
	m.CPUs = append(m.CPUs, mem.Registers{CPU: 1, Virtualization: &mem.Virtualization{Guest: true, Unread: "it ran a guest of the target"}})
	m.MSRs = append(m.MSRs, mem.SystemCalls{CPU: 1, Virtualization: m.CPUs[1].Virtualization})
	for range 2 {
		r := scanXen(t, m)
		if r.Outcome != measure.Incomplete || r.Kernel.Kind != measure.Xen || r.Kernel.CPUs != 2 {
			t.Errorf("%s of %q: %+v", r.Outcome, r.Kernel.Kind, r.Checks)
		}
		for _, name := range []string{xenRegistersName, xenMSRsName, xenIDTName, xenPageTablesName} {
			if c := xenCheckOf(t, r, name); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "CPU 1") {
				t.Errorf("%s is %s %s", name, c.Outcome, c.Reason)
			}
		}
		m.CPUs[0], m.CPUs[1] = m.CPUs[1], m.CPUs[0] // whichever comes first
		m.MSRs[0], m.MSRs[1] = m.MSRs[1], m.MSRs[0]
	}
	m.CPUs, m.MSRs = m.CPUs[1:], m.MSRs[1:]
	result, err := Scan(context.Background(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range result.Observations.Items {
		if !strings.Contains(item.NotMeasured, "it ran a guest of the target") {
			t.Errorf("%s: %q", item.Check, item.NotMeasured)
		}
	}
}

// Without the memory in which AMD's processors have them, a domain's registers of
// system calls are none of Xen's, and are not measured.
func TestLoadedDomainWithoutSVM(t *testing.T) {
	m := xentest.RunHVM()
	m.CPUs[0].Virtualization = nil
	m.MSRs[0].Virtualization = nil
	m.Put64(xentest.Phys+0xa520, 0)
	if c := xenCheckOf(t, scanXen(t, m), xenMSRsName); c.Outcome != measure.NotMeasured {
		t.Errorf("%s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
}
