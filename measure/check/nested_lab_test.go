//go:build lab && matrix

package check_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// TestNested runs stock kernels under real KVM, that of a machine's own stock
// kernel, and measures each from that machine with the command, as an operator
// would. KVM shows its guests its signature, which TCG does not: they patch
// themselves for it. Every check passes, and the guest goes on.
func TestNested(t *testing.T) {
	kernels := []string{"bullseye", "bookworm", "trixie", "sid"}
	m := startHypervisor(t, kernels...)
	for _, tt := range []struct {
		name string
		lab.NestedOptions
	}{
		{"two", lab.NestedOptions{CPUs: 2}},
		{"one-private", lab.NestedOptions{CPUs: 1, PrivateRAM: true}},
	} {
		for _, kernel := range kernels {
			t.Run(kernel+"-"+tt.name, func(t *testing.T) {
				o := tt.NestedOptions
				o.Kernel = kernel
				n, err := m.StartNested(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := n.Close(t.Context()); err != nil {
						t.Error(err)
					}
				}()
				requireKVM(t, n, o.CPUs)
				acceptsNested(t, m, n)
				refusesWatch(t, m, n)
				requireTicks(t, n)
			})
		}
	}
}

// startHypervisor starts a machine that has what it needs to run others, and
// kernels decompressed where the command keeps them: XZ under TCG takes long.
func startHypervisor(t *testing.T, names ...string) *lab.Machine {
	t.Helper()
	files := t.TempDir()
	if err := lab.NestedFiles(t.Context(), files, names...); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(files, "plumbline"), "../../cmd/plumbline")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build plumbline: %v: %s", err, out)
	}
	for _, name := range names {
		_, err := kernel.OpenImage(filepath.Join(files, "nested", name, "vmlinuz"),
			&kernel.ImageOptions{CacheDir: filepath.Join(files, "cache", "plumbline", "kernels")})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lab.StartT(t, lab.Options{Files: files, Memory: 3 << 30})
}

// requireKVM fails if the kernel does not know that it runs under KVM: then all
// that is to be seen here would not be.
func requireKVM(t *testing.T, n *lab.Nested, cpus int) {
	t.Helper()
	log, err := n.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Hypervisor detected: KVM", "Booting paravirtualized kernel on KVM", "kvm-clock: Using msrs"}
	if cpus > 1 {
		want = append(want, "PV spinlocks enabled", "KVM setup pv remote TLB flush", "kvm-guest: setup PV IPIs")
	}
	for _, line := range want {
		if !strings.Contains(log, line) {
			t.Errorf("the console does not say %q", line)
		}
	}
}

func acceptsNested(t *testing.T, m *lab.Machine, n *lab.Nested) {
	t.Helper()
	result, err := m.Exec(t.Context(), "env", "XDG_CACHE_HOME=/opt/plumbline/cache", "/opt/plumbline/plumbline", "measure",
		"--vm", n.QMP, "--kernel", n.Vmlinuz, "--modules", n.Modules, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r measure.Report
	if err := json.Unmarshal(result.Stdout, &r); err != nil {
		t.Fatalf("%v: exit %d: %s", err, result.ExitCode, result.Stderr)
	}
	for _, c := range r.Checks {
		if c.Outcome != measure.Pass {
			t.Errorf("%s: %s %s %+v", c.Name, c.Outcome, c.Reason, c.Findings)
		}
	}
	if result.ExitCode != 0 {
		t.Fatalf("exit %d: %s", result.ExitCode, result.Stderr)
	}
	t.Logf("%s, moved by %v: %s, paused for %v of %v ms, %+v", r.Kernel.Release, r.Kernel.Slide, r.Outcome, r.PauseMS, r.ElapsedMS,
		find(t, &r, "modules.text").Coverage)
}

// refusesWatch fails if the command does not say that it cannot trap file
// operations here: that takes a plugin, which QEMU has under TCG only.
func refusesWatch(t *testing.T, m *lab.Machine, n *lab.Nested) {
	t.Helper()
	result, err := m.Exec(t.Context(), "/opt/plumbline/plumbline", "watch", "--source", "trap", "--vm", n.QMP)
	if err != nil {
		t.Fatal(err)
	}
	const unimplemented = 16
	if result.ExitCode != unimplemented || len(result.Stdout) > 0 || !strings.Contains(string(result.Stderr), "without the trap plugin") {
		t.Errorf("plumbline watch: exit %d: %s%s", result.ExitCode, result.Stdout, result.Stderr)
	}
}

// requireTicks fails if the machine does not go on: its first process prints a
// line each second.
func requireTicks(t *testing.T, n *lab.Nested) {
	t.Helper()
	before := -1
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) {
		log, err := n.Console(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ticks := strings.Count(log, "\ntick")
		if before >= 0 && ticks > before {
			return
		}
		if before < 0 {
			before = ticks
		}
		if time.Now().After(deadline) {
			t.Fatal("the machine stands still after the scan")
		}
	}
}
