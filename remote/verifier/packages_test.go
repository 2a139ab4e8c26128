package verifier

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/baseline/pkgdb/pkgdbtest"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// A change that is a file of a signed package the verifier holds is told and
// does not count; the same place with other content does.
func TestSignedPackageExplainsAChange(t *testing.T) {
	g := pkgdbtest.NewGPG(t, "ed25519")
	config := fmt.Sprintf("%s\n[[group]]\nname = \"default\"\npackages = [%q]\nkeyrings = [%q]\n", twoMachines, pkgdbtest.Repository(t, g), g.Public)
	r := start(t, config)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	program := func(content string) *diskFile {
		f := file("/usr/bin/tool", 1, content)
		f.Mode = 0o755
		return f
	}
	w.capture(0, program("the version before\n"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.settle(w.event(filewatch.OpWrite, program("x")), program("trojan"))
	r.violations(t, 1)
	w.settle(w.event(filewatch.OpWrite, program("x")), program("#!/bin/sh\n"))
	r.violations(t, 0)
	items, err := r.client.Reviews(t.Context(), reviewRestored)
	if err != nil || len(items) != 1 || !strings.Contains(items[0].Reason, "it is explained by package tool 1.2-3 (signed by "+g.Fingerprint) {
		t.Errorf("%+v, %v", items, err)
	}
	r.judgedAs(t, "/usr/bin/tool", remote.VerdictRecorded)
	w.settle(w.event(filewatch.OpChmod, program("x")), func() *diskFile { f := program("#!/bin/sh\n"); f.Mode = 0o4755; return f }())
	r.violations(t, 1)
}

func TestPackagesNeedAKeyring(t *testing.T) {
	v := &Verifier{config: &Config{}}
	if err := v.readPackages(Host{Reference: Reference{Packages: []string{t.TempDir()}}}); !errors.Is(err, errNoKeyring) {
		t.Error(err)
	}
}
