package verifier

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/baseline/pkgdb"
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

// What a list of diversions that the verifier holds puts elsewhere is told and does
// not count; the same signed file in any other place does, whatever the machine's
// own list says.
func TestHeldDiversionsExplainAChange(t *testing.T) {
	g, list := pkgdbtest.NewGPG(t, "ed25519"), t.TempDir()+"/diversions"
	if err := os.WriteFile(list, []byte("/usr/bin/tool\n/opt/real/tool\nwrapper\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	packages := fmt.Sprintf("packages = [%q]\nkeyrings = [%q]\n", pkgdbtest.Repository(t, g), g.Public)
	for _, c := range []struct {
		held, path string
		verdict    string // of the last write, which leaves what the package has
		want       int
	}{
		{"", "/opt/real/tool", remote.VerdictChanged, 1},
		{list, "/opt/real/tool", remote.VerdictRecorded, 0},
		{list, "/usr/sbin/auditd", remote.VerdictChanged, 1},
	} {
		t.Run(fmt.Sprintf("%s %v", c.path, c.held != ""), func(t *testing.T) {
			r := start(t, fmt.Sprintf("%s\n[[group]]\nname = \"default\"\n%sdiversions = %q\n", twoMachines, packages, c.held))
			w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
			program := func(content string) *diskFile {
				f := file(c.path, 1, content)
				f.Mode = 0o755
				return f
			}
			w.capture(0, program("the version before\n"))
			r.said(t, "vm1", "a baseline of vm1 was taken")
			w.settle(w.event(filewatch.OpWrite, program("x")), program("trojan"))
			r.violations(t, 1)
			w.settle(w.event(filewatch.OpWrite, program("x")), program("#!/bin/sh\n"))
			eventually(t, "the verdict on the second write", func() bool {
				events := r.machine(t, "vm1").Events
				return len(events) == 2 && events[0].Verdict == c.verdict
			})
			r.violations(t, c.want)
		})
	}
}

// Diversions are of packages' files, and a list that cannot be read is no list.
func TestHeldDiversionsAreRefused(t *testing.T) {
	g, bad := pkgdbtest.NewGPG(t, "ed25519"), t.TempDir()+"/diversions"
	if err := os.WriteFile(bad, []byte("/usr/bin/tool\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	packages := []string{pkgdbtest.Repository(t, g)}
	v := &Verifier{config: &Config{}, packages: map[string]*heldPackages{}}
	if err := v.readPackages(Host{Reference: Reference{Packages: packages, Keyrings: []string{g.Public}, Diversions: bad}}); !errors.Is(err, pkgdb.ErrDiversions) {
		t.Errorf("no list: %v", err)
	}
	if err := v.readHost(Host{Reference: Reference{Diversions: bad}}); !errors.Is(err, errNoPackages) {
		t.Errorf("without packages: %v", err)
	}
}

// Packages that come while the verifier runs are used once they stand still; what
// is not signed never is.
func TestPackagesAreReadAgain(t *testing.T) {
	g := pkgdbtest.NewGPG(t, "ed25519")
	dir, host := t.TempDir(), "vm1"
	put := func(from string) {
		t.Helper()
		if err := os.RemoveAll(dir + "/now"); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir+"/now", os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	put(pkgdbtest.Repository(t, g))
	list := t.TempDir() + "/diversions"
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v := &Verifier{config: &Config{Hosts: []Host{{Name: host}}}, packages: map[string]*heldPackages{}, log: slog.New(slog.DiscardHandler)}
	if err := v.readPackages(Host{Name: host, Reference: Reference{Packages: []string{dir}, Keyrings: []string{g.Public}, Diversions: list}}); err != nil {
		t.Fatal(err)
	}
	first := v.packages[host].now.Load()
	look := func(want bool, when string) {
		t.Helper()
		before := v.packages[host].now.Load()
		v.renewPackages()
		if got := v.packages[host].now.Load() != before; got != want {
			t.Errorf("%s: read again: %v", when, got)
		}
	}
	look(false, "nothing changed")
	put(pkgdbtest.Repository(t, pkgdbtest.NewGPG(t, "ed25519")))
	look(false, "just changed")
	look(false, "another's signature")
	put(pkgdbtest.Repository(t, g))
	look(false, "changed back, just now")
	look(true, "changed back, and stands still")
	look(false, "nothing changed since")
	if err := os.WriteFile(list, []byte("/usr/bin/tool\n/opt/real/tool\n:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	look(false, "the list of diversions just changed")
	look(true, "the list of diversions changed, and stands still")
	if v.packages[host].now.Load() == first {
		t.Error("the first packages are in use")
	}
}

func TestPackagesNeedAKeyring(t *testing.T) {
	v := &Verifier{config: &Config{}}
	if err := v.readPackages(Host{Reference: Reference{Packages: []string{t.TempDir()}}}); !errors.Is(err, errNoKeyring) {
		t.Error(err)
	}
}
