//go:build lab && matrix

package check_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// matrixKinds are the kinds of CPUs that each kernel runs on, and the command
// lines: they decide how it patches itself and where its objects lie.
var matrixKinds = []struct {
	name   string
	cpus   int
	cpu    string
	append string
	only   string // the kernel that has it; empty for each
}{
	{"two", 2, lab.DefaultCPU, "", ""},
	{"one-epyc", 1, "EPYC,+svm", "", ""},
	{"two-intel", 2, "max,vendor=GenuineIntel", "", ""}, // with page-table isolation
	{"skylake", 2, "Skylake-Server-v5", "", ""},         // resctrl takes a constant apart
	// Calls are counted, and 0x80 is a device's vector.
	{"counting", 2, "Skylake-Server-v5", "spectre_v2=retpoline retbleed=stuff ia32_emulation=off", "trixie"},
	{"hardened", 2, lab.DefaultCPU, "slab_nomerge init_on_alloc=1 init_on_free=1 page_alloc.shuffle=1 pti=on vsyscall=none " +
		"slub_debug=FZP kfence.sample_interval=10 randomize_kstack_offset=on crashkernel=128M", ""},
	{"unmitigated", 2, "max,vendor=GenuineIntel", "mitigations=off nopti nokaslr preempt=full threadirqs " +
		"init_on_alloc=0 page_poison=1", ""},
}

// TestMatrix measures a machine for each kernel of Debian's suites and each kind
// of CPUs: as it boots, and with probes, a tracer, a live patch and BPF programs. Every byte
// is explained and every check passes.
func TestMatrix(t *testing.T) {
	files := buildFiles(t)
	for _, name := range lab.KernelNames() {
		for _, kind := range matrixKinds {
			if kind.only != "" && kind.only != name {
				continue
			}
			t.Run(name+"-"+kind.name, func(t *testing.T) {
				m := lab.StartT(t, lab.Options{Kernel: name, CPUs: kind.cpus, CPU: kind.cpu, Append: kind.append, Files: files})
				s := newScanner(t, m)
				accepts(t, s, "as it boots")
				for _, change := range []string{"kprobe-optimized", "kretprobe", "function-graph", "sniffer", "livepatch"} {
					if err := m.Tamper(t.Context(), change); err != nil {
						t.Fatal(err)
					}
				}
				t.Log(m.ShellT(t, lab.OnOneCPU(bpfload)))
				accepts(t, s, "with probes, a tracer, a live patch and BPF")
				if strings.Contains(kind.append, "crashkernel") {
					if err := m.Put(t.Context(), m.Vmlinuz, "/run/lab-vmlinuz"); err != nil {
						t.Fatal(err)
					}
					m.ShellT(t, loadKernels)
					accepts(t, s, "with a kernel to start next and one for a crash")
				}
			})
		}
	}
}

// TestMatrixGuests measures a machine of each other kernel of Debian's while it runs
// guests of its own, and changes what its CPUs go back to when they leave these.
func TestMatrixGuests(t *testing.T) {
	files := buildFiles(t)
	for name, best := range map[string]measure.Outcome{
		"bullseye": measure.Incomplete, // what KVM before 5.12 has of TR and system calls is not read
		"trixie":   measure.Pass,
		"sid":      measure.Pass,
	} {
		t.Run(name, func(t *testing.T) {
			s := newScanner(t, lab.StartT(t, lab.Options{Kernel: name, Files: files}))
			acceptsGuests(t, s, best)
			if best == measure.Pass {
				t.Run("host state", func(t *testing.T) { detectsHostStateTampers(t, s) })
			}
		})
	}
}

// TestMatrixTampers applies to each other kernel of Debian's the tampers that only it
// has a subject for, and those of security hooks, which are called in another way since
// 6.12. A machine with a command line of its own has no Secure Boot, under which a
// kernel loads only another that is signed.
func TestMatrixTampers(t *testing.T) {
	for _, name := range []string{"bullseye", "trixie", "sid"} {
		t.Run(name, func(t *testing.T) {
			s := newScanner(t, lab.StartT(t, lab.Options{Kernel: name, Append: "crashkernel=128M"}))
			for _, tamper := range lab.Tampers() {
				if tamper.Kernel == name || strings.HasPrefix(tamper.Name, "security-") {
					t.Run(tamper.Name, func(t *testing.T) { detects(t, s, tamper) })
				}
			}
		})
	}
}

// loadKernels loads the kernel's own file as what a reboot would start, and as what a
// crash would (kexec_file_load without an initial RAM disk, and KEXEC_FILE_ON_CRASH).
const loadKernels = `perl -e '
	open(my $kernel, "<", "/run/lab-vmlinuz") or die $!;
	my $line = "\0";
	for my $flags (4, 4 | 2) {
		syscall(320, fileno($kernel), -1, 1, $line, $flags) == 0 or die "kexec_file_load with $flags: $!";
	}'`

func buildFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := buildGuestFiles(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// accepts scans and demands that every check passes.
func accepts(t *testing.T, s *scanner, when string) {
	t.Helper()
	r, _ := s.scan(t)
	for _, c := range r.Checks {
		if c.Outcome != measure.Pass {
			t.Errorf("%s: %s: %s %s %+v", when, c.Name, c.Outcome, c.Reason, c.Findings)
		}
	}
	t.Logf("%s, %s: %s, %d checks, %d bytes of text", r.Kernel.Release, when, r.Outcome, len(r.Checks), find(t, r, "linux.text").Coverage.Bytes)
}
