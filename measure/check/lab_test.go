//go:build lab

package check_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// shared is the machine of all tests here, booted for the first of them. Each
// leaves it as it was.
var (
	shared = sync.OnceValues(func() (*lab.Machine, error) {
		sharedUsed = true
		files, err := os.MkdirTemp("", "plumbline-files-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(files)
		if err := buildGuestFiles(files); err != nil {
			return nil, err
		}
		return lab.Start(context.Background(), lab.Options{Log: os.Stderr, Files: files})
	})
	sharedUsed bool
)

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedUsed {
		if machine, err := shared(); err == nil {
			if err := machine.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

func sharedMachine(t *testing.T) *lab.Machine {
	t.Helper()
	m, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// scanner measures a lab machine the way the command and the agent do.
type scanner struct {
	machine  *lab.Machine
	image    *kernel.Image
	xen      *xen.Image // instead, of a machine that boots Xen
	modules  *kernel.ModuleTree
	profiles kernel.Cache
	accepted accepted // of all scans, as a verifier keeps it
	memo     check.Memo
	places   qemu.Places
}

func newScanner(t *testing.T, m *lab.Machine) *scanner {
	t.Helper()
	image, err := kernel.OpenImage(m.Vmlinuz, &kernel.ImageOptions{CacheDir: kernel.DefaultCacheDir()})
	if err != nil {
		t.Fatal(err)
	}
	modules, err := kernel.OpenModules(m.Modules)
	if err != nil {
		t.Fatal(err)
	}
	return &scanner{machine: m, image: image, modules: modules, accepted: make(accepted)}
}

// Image implements [check.ImageSource].
func (s *scanner) Image(string) (*kernel.Image, error) { return s.image, nil }

// Module implements [check.ModuleSource]: a live patch is no module of the
// kernel's package.
func (s *scanner) Module(name, buildID string) (*kernel.ModuleFile, error) {
	if name != lab.LivepatchName {
		return s.modules.Module(name, buildID)
	}
	file, err := kernel.OpenModule(s.machine.LivepatchFile())
	if err == nil && buildID != "" && file.BuildID != buildID {
		return nil, kernel.ErrOtherBuild
	}
	return file, err
}

// scan measures and judges these checks, all for none, with the kernel's files
// and without.
func (s *scanner) scan(t *testing.T, checks ...string) (withFiles, without *measure.Report) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // other tests may run beside this one
	defer cancel()
	vm, err := qemu.Open(ctx, s.machine.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	vm.Remember(&s.places)
	result, err := check.Scan(ctx, vm, &check.Options{Target: vm.Target(), Profiles: &s.profiles, Checks: checks})
	if err != nil {
		t.Fatal(err)
	}
	// What the verifier gets is the encoded form.
	encoded, err := result.Observations.Encode()
	if err != nil {
		t.Fatal(err)
	}
	obs, err := measure.DecodeObservations(encoded)
	if err != nil {
		t.Fatal(err)
	}
	refs := check.References{Images: s, Modules: s, Pages: result.Pages, Checks: checks}
	if s.xen != nil {
		refs = check.References{Xen: s, Pages: result.Pages, Checks: checks}
	}
	withFiles = judge(t, obs, &refs)
	// What earlier scans have left saves work and changes nothing.
	refs.Accepted, refs.Memo = s.accepted, &s.memo
	warm := judge(t, obs, &refs)
	if diff := cmp.Diff(withFiles, warm); diff != "" {
		t.Errorf("judged with what earlier scans left (-without +with):\n%s", diff)
	}
	without = judge(t, obs, &check.References{Pages: result.Pages, Checks: checks})
	return withFiles, without
}

func judge(t *testing.T, obs *measure.Observations, refs *check.References) *measure.Report {
	t.Helper()
	report, err := check.Judge(obs, refs)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func find(t *testing.T, r *measure.Report, name string) measure.Check {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(c measure.Check) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("report has no check %s", name)
	}
	return r.Checks[i]
}

func text(r *measure.Report) string {
	var b strings.Builder
	r.WriteText(&b)
	return b.String()
}

// TestTampers applies each tamper of the corpus that changes memory: the check
// meant for it fails, or cannot tell, and passes again once it is undone.
func TestTampers(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	for _, tamper := range lab.Tampers() {
		if tamper.Benign || tamper.Xen || tamper.Kernel != "" || !slices.Contains(check.Names(), tamper.Check) {
			continue
		}
		t.Run(tamper.Name, func(t *testing.T) { detects(t, s, tamper) })
	}
}

// detects applies a tamper and demands that its check minds it, and no more once it
// is undone.
func detects(t *testing.T, s *scanner, tamper lab.Tamper) {
	if err := s.machine.Tamper(t.Context(), tamper.Name); err != nil {
		t.Fatal(err)
	}
	r, _ := s.scan(t, tamper.Check)
	if err := s.machine.Restore(t.Context(), tamper.Name); err != nil {
		t.Fatal(err)
	}
	want := measure.Fail
	if tamper.Unmeasured {
		want = measure.NotMeasured
	}
	c := find(t, r, tamper.Check)
	if c.Outcome != want || tamper.Unmeasured != (len(c.Findings) == 0) {
		t.Errorf("%s did not see it:\n%s", tamper.Check, text(r))
	}
	t.Logf("%+v", c.Findings)
	if r, _ := s.scan(t, tamper.Check); r.Outcome != measure.Pass {
		t.Errorf("after it was undone:\n%s", text(r))
	}
}

// TestBenignChanges applies what an honest administrator does: nothing fails,
// neither while it is in place nor after.
func TestBenignChanges(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	for _, change := range lab.Tampers() {
		if !change.Benign {
			continue
		}
		t.Run(change.Name, func(t *testing.T) {
			if err := m.Tamper(t.Context(), change.Name); err != nil {
				t.Fatal(err)
			}
			r, _ := s.scan(t)
			if err := m.Restore(t.Context(), change.Name); err != nil {
				t.Fatal(err)
			}
			if r.Outcome != measure.Pass {
				t.Errorf("a benign change is a finding:\n%s", text(r))
			}
		})
	}
	if r, _ := s.scan(t); r.Outcome != measure.Pass {
		t.Errorf("after all were undone:\n%s", text(r))
	}
}

// needFiles names the checks that compare with the kernel's files.
var needFiles = []string{"linux.text", "linux.rodata", "linux.tables", "linux.vdso", "linux.pointers", "modules.text", "modules.rodata", "modules.pointers", "linux.dynamic", "linux.init"}

// Without the kernel's files what needs them is not measured, and the rest is.
func TestWithoutFiles(t *testing.T) {
	m := sharedMachine(t)
	_, r := newScanner(t, m).scan(t)
	if r.Outcome != measure.Incomplete {
		t.Errorf("outcome %s", r.Outcome)
	}
	for _, c := range r.Checks {
		want := measure.Pass
		if slices.Contains(needFiles, c.Name) {
			want = measure.NotMeasured
		}
		if c.Outcome != want || want == measure.NotMeasured && c.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", c.Name, c.Outcome, c.Reason, want)
		}
	}
}

// The verifier gets pages by digest: what it does not have it asks for, once.
func TestMissingPages(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	result := s.outside(t)
	refs := &check.References{Images: s, Modules: s}
	_, err := check.Judge(result.Observations, refs)
	var missing *check.MissingPagesError
	if !errors.As(err, &missing) || len(missing.Digests) == 0 {
		t.Fatalf("error %v, want missing pages", err)
	}
	sent := make(check.Pages)
	for _, d := range missing.Digests {
		if sent[d] = result.Pages[d]; sent[d] == nil {
			t.Fatalf("the scan did not keep page %s", d)
		}
	}
	refs.Pages = sent
	if r := judge(t, result.Observations, refs); r.Outcome != measure.Pass {
		j, _ := json.Marshal(r)
		t.Errorf("%s", j)
	}
}
