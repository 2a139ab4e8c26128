//go:build lab

package check_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
)

func newXenScanner(t *testing.T, m *lab.Machine) *scanner {
	t.Helper()
	image, err := xen.OpenImage(m.Xen)
	if err != nil {
		t.Fatal(err)
	}
	return &scanner{machine: m, xen: image, accepted: make(accepted)}
}

// Xen implements [check.XenSource].
func (s *scanner) Xen(string) (*xen.Image, error) { return s.xen, nil }

// startXen boots a Xen whose domain has the program that makes another one.
func startXen(t *testing.T, o lab.Options) *lab.Machine {
	t.Helper()
	o.Files, o.Memory = t.TempDir(), 768<<20
	build := exec.Command("go", "build", "-o", filepath.Join(o.Files, lab.HVMTool), "../../internal/lab/"+lab.HVMTool)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", lab.HVMTool, err, out)
	}
	return lab.StartT(t, o)
}

// TestXen boots one Xen with a PV domain and looks at it in every way: as it is,
// with a hardware-assisted domain beside that, under load, and with each tamper of
// a hypervisor, which the check meant for it finds and which leaves nothing behind.
// Domains that run are for [TestMatrixXen]: on a starved machine they leave the first
// domain no time.
func TestXen(t *testing.T) {
	m := startXen(t, lab.Options{Xen: "4.17"})
	s := newXenScanner(t, m)
	r, _ := s.scan(t)
	sawDomains(t, r)
	makeHVM(t, s)
	t.Run("benign", func(t *testing.T) { acceptXen(t, s, 50, "", func(*measure.Report) {}) })
	t.Run("tampers", func(t *testing.T) { tamperXen(t, s, func(name string) bool { return !ofRunning(name) }) })
	if r, _ := s.scan(t); r.Outcome != measure.Pass {
		t.Errorf("after all were undone:\n%s", text(r))
	}
}

// makeHVM makes a hardware-assisted domain, whose nested page tables are then
// measured: what hvmdomain gives it, 64 pages and two of 2 MiB, in one table of
// each level. It does not run, so that nothing of it changes.
func makeHVM(t *testing.T, s *scanner) (domain int) {
	t.Helper()
	domain, err := s.machine.MakeHVM(t.Context(), lab.HVM{})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := s.scan(t)
	c := find(t, r, "xen.domains")
	if r.Outcome != measure.Pass || !strings.Contains(c.Reason, "has 1 CPUs, 4 nested page tables, 66 entries that map 1088 frames") {
		t.Fatalf("%s:\n%s", c.Reason, text(r))
	}
	return domain
}

// ofRunning says that a tamper needs a domain that runs.
func ofRunning(tamper string) bool { return strings.HasPrefix(tamper, "xen-host-") }

// acceptXen scans a Xen whose domain is busy: with processes that come and go,
// with files, with what of hypercalls and emulation these cause, and with a script. It
// accepts that domains which come and go are not measured, and a CPU that is between
// Xen and a domain at each look.
func acceptXen(t *testing.T, s *scanner, scans int, script string, saw func(*measure.Report)) {
	t.Helper()
	const load = "(while [ -e /run/load ]; do %s; true; done) <&- >/dev/null 2>&1 & echo $! >> /run/loads; "
	const files = "dd if=/dev/vda of=/dev/null bs=64k count=64; ls -R /usr/share"
	loads := fmt.Sprintf(load, files) + fmt.Sprintf(load, files)
	if script != "" {
		loads += fmt.Sprintf(load, script)
	}
	s.machine.ShellT(t, "touch /run/load; "+loads)
	defer s.machine.ShellT(t, "rm -f /run/load; for pid in $(cat /run/loads); do while [ -d /proc/$pid ]; do sleep 0.2; done; done; rm /run/loads")
	for i := range scans {
		r, _ := s.scan(t)
		for _, c := range r.Checks {
			moves := script != "" && (c.Name == "xen.domains" || strings.Contains(c.Reason, "looks"))
			if c.Outcome != measure.Pass && !(c.Outcome == measure.NotMeasured && moves) {
				t.Fatalf("scan %d:\n%s", i, text(r))
			}
		}
		saw(r)
	}
}

// tamperXen makes the tampers of a hypervisor that are wanted.
func tamperXen(t *testing.T, s *scanner, wanted func(name string) bool) {
	for _, tamper := range lab.Tampers() {
		if !tamper.Xen || !wanted(tamper.Name) {
			continue
		}
		t.Run(tamper.Name, func(t *testing.T) {
			err := s.machine.Tamper(t.Context(), tamper.Name)
			if errors.Is(err, lab.ErrNoSubject) && tamper.Name == "xen-hypercall-table" && !s.xen.Before(4, 17) {
				return // dispatched by code since
			}
			if err != nil {
				t.Fatal(err)
			}
			r, _ := s.scan(t)
			if err := s.machine.Restore(t.Context(), tamper.Name); err != nil {
				t.Fatal(err)
			}
			for _, c := range r.Checks {
				want := c.Name == tamper.Check
				if tamper.Name == "xen-hypercall-table" && c.Name == "xen.rodata" {
					want = true // the table is part of it
				}
				if (c.Outcome == measure.Fail) != want {
					t.Errorf("%s is %s:\n%s", c.Name, c.Outcome, text(r))
				}
			}
			if r, _ := s.scan(t, tamper.Check); r.Outcome != measure.Pass {
				t.Errorf("after it was undone:\n%s", text(r))
			}
		})
	}
}

// A Xen's report says what it does not measure.
func sawDomains(t *testing.T, r *measure.Report) {
	t.Helper()
	if c := find(t, r, "xen.domains"); !strings.Contains(c.Reason, "this scan does not measure") {
		t.Errorf("xen.domains: %s %s", c.Outcome, c.Reason)
	}
}
