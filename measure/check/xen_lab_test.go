//go:build lab

package check_test

import (
	"errors"
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

// TestXen boots one Xen with a PV domain and looks at it in every way: as it is,
// under load, and with each tamper of a hypervisor, which the check meant for it
// finds and which leaves nothing behind.
func TestXen(t *testing.T) {
	m := lab.StartT(t, lab.Options{Xen: "4.17", Memory: 768 << 20})
	s := newXenScanner(t, m)
	r, _ := s.scan(t)
	sawDomains(t, r)
	t.Run("benign", func(t *testing.T) { acceptXen(t, s, 50) })
	t.Run("tampers", func(t *testing.T) { tamperXen(t, s) })
	if r, _ := s.scan(t); r.Outcome != measure.Pass {
		t.Errorf("after all were undone:\n%s", text(r))
	}
}

// acceptXen scans a Xen whose domain is busy: with processes that come and go,
// with files, and with what of hypercalls and emulation these cause.
func acceptXen(t *testing.T, s *scanner, scans int) {
	const load = "for i in 1 2; do (while [ -e /run/load ]; do dd if=/dev/vda of=/dev/null bs=64k count=64; ls -R /usr/share; true; done) >/dev/null 2>&1 & done"
	s.machine.ShellT(t, "touch /run/load; "+load)
	defer s.machine.ShellT(t, "rm -f /run/load")
	for i := range scans {
		r, _ := s.scan(t)
		if r.Outcome != measure.Pass {
			t.Fatalf("scan %d:\n%s", i, text(r))
		}
	}
}

func tamperXen(t *testing.T, s *scanner) {
	for _, tamper := range lab.Tampers() {
		if !tamper.Xen {
			continue
		}
		t.Run(tamper.Name, func(t *testing.T) {
			err := s.machine.Tamper(t.Context(), tamper.Name)
			if errors.Is(err, lab.ErrNoSubject) {
				// Only what this Xen does not have may be left out.
				if old := s.xen.Before(4, 17); tamper.Name != "xen-hypercall-table" || old {
					t.Fatal(err)
				}
				return
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
