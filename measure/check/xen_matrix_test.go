//go:build lab && matrix

package check_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// xenCPUs are models under which Xen boots on QEMU's TCG: one of AMD with
// everything, where there can be hardware-assisted domains, and one of Intel, for
// which Xen isolates page tables (XPTI); TCG has no VT-x.
var xenCPUs = []string{lab.DefaultXenCPU, "Skylake-Client-noTSX-IBRS,-smap,-smep"}

// TestMatrixXen measures every version of Xen with one CPU and two, of each model:
// no byte of text or read-only data is left unexplained, the nested page tables of
// a hardware-assisted domain are its own, one that runs changes no verdict, and every
// tamper is found.
func TestMatrixXen(t *testing.T) {
	for _, version := range lab.XenVersions() {
		for _, cpu := range xenCPUs {
			for _, count := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s/%s/%d", version, cpu, count), func(t *testing.T) {
					m := startXen(t, lab.Options{Xen: version, CPU: cpu, CPUs: count})
					s := newXenScanner(t, m)
					r, _ := s.scan(t)
					if r.Outcome != measure.Pass {
						t.Fatalf("%s", text(r))
					}
					sawDomains(t, r)
					if !strings.Contains(cpu, "+svm") {
						acceptXen(t, s, 10, "", func(*measure.Report) {})
						tamperXen(t, s, func(name string) bool { return !strings.HasPrefix(name, "xen-nested-") && !ofRunning(name) })
						return
					}
					domain := makeHVM(t, s)
					tamperXen(t, s, func(name string) bool { return !ofRunning(name) })
					endHVM(t, s, domain)
					acceptRunning(t, s, 10)
				})
			}
		}
	}
}

func endHVM(t *testing.T, s *scanner, domain int) {
	t.Helper()
	if err := s.machine.EndHVM(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
}

// acceptRunning scans a Xen on whose CPUs a hardware-assisted domain runs, while
// others come and go, and makes the tampers that need one. Scans must have met a CPU
// in a domain, or nothing was tried.
func acceptRunning(t *testing.T, s *scanner, scans int) {
	t.Helper()
	domain, err := s.machine.MakeHVM(t.Context(), lab.HVM{CPUs: 2, Run: true})
	if err != nil {
		t.Fatal(err)
	}
	const others = "d=$(/opt/plumbline/" + lab.HVMTool + " -run) && /opt/plumbline/" + lab.HVMTool + " -destroy $d"
	met, passed := 0, 0
	acceptXen(t, s, scans, others, func(r *measure.Report) {
		if r.Outcome == measure.Pass {
			passed++
		}
		if strings.Contains(find(t, r, "xen.registers").Reason, "ran a domain") {
			met++
		}
	})
	t.Logf("of %d scans %d passed, %d met a CPU that ran a domain", scans, passed, met)
	if met == 0 || passed == 0 {
		t.Errorf("of %d scans %d passed, %d met a CPU that ran a domain", scans, passed, met)
	}
	tamperXen(t, s, func(name string) bool { return strings.HasPrefix(name, "xen-nested-") || ofRunning(name) })
	endHVM(t, s, domain)
}
