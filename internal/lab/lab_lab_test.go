//go:build lab

package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/gdbstub"
)

// shared is the machine of all tests that leave it as they found it, booted
// for the first of them.
var (
	shared = sync.OnceValues(func() (*Machine, error) {
		sharedUsed = true
		return Start(context.Background(), Options{Log: os.Stderr})
	})
	sharedUsed bool
)

func sharedMachine(t *testing.T) *Machine {
	t.Helper()
	m, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMain(m *testing.M) {
	code := m.Run()
	if machine, err := useShared(); err == nil && machine != nil {
		if err := machine.Close(); err != nil {
			os.Stderr.WriteString(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// useShared is the shared machine if a test has started it.
func useShared() (*Machine, error) {
	if !sharedUsed {
		return nil, nil
	}
	return shared()
}

func TestMachineIsWhatItSays(t *testing.T) {
	m := sharedMachine(t)
	for what, test := range map[string]struct{ script, want string }{
		"Secure Boot":        {"od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*", "1"},
		"lockdown":           {"cat /sys/kernel/security/lockdown", "none [integrity] confidentiality"},
		"kernel":             {"uname -r", m.Kernel},
		"TPM":                {"cat /sys/class/tpm/tpm0/tpm_version_major", "2"},
		"KVM":                {"lsmod | grep -cE '^kvm_(amd|intel) '", "1"},
		"root file system":   {"findmnt -no FSTYPE /", "ext4"},
		"capabilities":       {"getcap /usr/bin/ping", "/usr/bin/ping cap_net_raw=ep"},
		"extended attribute": {"getfattr --only-values -n user.colour /srv/samples/xattr", "blue"},
		"host loopback":      {"ip route get 10.0.2.2 | grep -c eth0", "1"},
		"package database":   {"dpkg --verify coreutils && dpkg-query -W -f '${Status}' coreutils", "install ok installed"},
	} {
		if got := strings.TrimSpace(m.ShellT(t, test.script)); got != test.want {
			t.Errorf("%s: %q, want %q", what, got, test.want)
		}
	}
	if entries := m.ShellT(t, "wc -l < /sys/kernel/security/ima/ascii_runtime_measurements"); len(strings.TrimSpace(entries)) < 2 {
		t.Errorf("IMA list has %s entries", entries)
	}
	for _, path := range []string{m.RAM, m.Disk, m.ESP, m.Vmlinuz, m.UKI, m.QMP, m.EventsQMP, m.GDB, m.Serial, m.TPM, m.HostTPM, m.TPMCA,
		filepath.Join(m.Modules, "modules.order")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestEndorsementCertificateLeadsToAuthority(t *testing.T) {
	m := sharedMachine(t)
	result, err := m.Exec(t.Context(), "tpm2_nvread", "-C", "o", "0x1c00002") // RSA 2048 EK certificate, TCG EK profile
	if err != nil || result.ExitCode != 0 {
		t.Fatalf("read EK certificate: %v, %+v", err, result)
	}
	der := filepath.Join(t.TempDir(), "ek.der")
	if err := os.WriteFile(der, result.Stdout, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), "", "openssl", "verify", "-ignore_critical", "-CAfile", m.TPMCA, der); err != nil {
		t.Error(err)
	}
}

func TestExecPassesEverythingOn(t *testing.T) {
	m := sharedMachine(t)
	result, err := m.ExecInput(t.Context(), []byte("in"), "sh", "-c", "cat; echo out; echo err >&2; exit 7")
	if err != nil {
		t.Fatal(err)
	}
	if string(result.Stdout) != "inout\n" || string(result.Stderr) != "err\n" || result.ExitCode != 7 {
		t.Errorf("result %+v", result)
	}
	if result, err = m.Exec(t.Context(), "sh", "-c", "kill -9 $$"); err != nil || result.Signal != 9 {
		t.Errorf("killed command: %+v, %v", result, err)
	}
	if _, err := m.Exec(t.Context(), "/no/such/command"); err == nil {
		t.Error("a command that does not exist ran")
	}
}

// observe is a script in the guest for each tamper that is not seen in memory:
// what it prints must differ while the tamper is in place.
var observe = map[string]string{
	"module-hidden":     "cut -d ' ' -f 1 /proc/modules",
	"process-hidden":    "ps -e -o comm= | grep -cx sleep; true",
	"file-content":      "sha256sum /usr/bin/pinky",
	"file-setuid":       "find /usr/local -perm -4000",
	"file-deleted":      "ls /etc/security",
	"ftrace":            "cat /sys/kernel/tracing/enabled_functions",
	"kprobe":            "cat /sys/kernel/debug/kprobes/list | grep -c do_sys_openat2; true",
	"kprobe-optimized":  "grep -c " + probedInside + " /sys/kernel/debug/kprobes/list; true",
	"kretprobe":         "grep -c vfs_read /sys/kernel/debug/kprobes/list; true",
	"user-probe-runs":   "cat /sys/kernel/tracing/uprobe_events",
	"function-graph":    "cat /sys/kernel/tracing/current_tracer",
	"local-segment":     "ls /run/lab-ldt-made; true",
	"livepatch":         "cat /proc/cmdline",
	"sniffer":           "wc -l < /proc/net/packet",
	"module-load":       "grep ^dummy /proc/modules; true",
	"module-reload":     "stat -c %i /sys/module/kvm_amd", // a new one each time; its memory may be where it was
	"bpf-attach":        "tc filter show dev lo ingress 2>/dev/null; true",
	"tracepoint":        "cat /sys/kernel/tracing/events/sched/enable",
	"module-tracepoint": "cat /sys/kernel/tracing/events/kvm/enable",
	"tracepoint-twice":  "ls /sys/kernel/tracing/instances",
	"cpu-offline":       "cat /sys/devices/system/cpu/online",
	"load":              "ls /run/lab-load; true",
	"other-users":       "ps -e -o args= | grep -cx 'sleep 86401'; true",
	"package-install":   "ls /usr/bin/hello; true",
	"file-touch-tmp":    "ls /tmp",
}

func TestTampersShowAndAreRestored(t *testing.T) {
	m := sharedMachine(t)
	m.ConsoleOnFailure(t)
	for _, tamper := range Tampers() {
		if tamper.Xen || tamper.Kernel != "" {
			continue // tested with a machine that boots one, in measure/check
		}
		t.Run(tamper.Name, func(t *testing.T) {
			script, inGuest := observe[tamper.Name]
			before := ""
			if inGuest {
				before = m.ShellT(t, script)
			}
			if err := m.Tamper(t.Context(), tamper.Name); err != nil {
				t.Fatal(err)
			}
			if err := m.Tamper(t.Context(), tamper.Name); !errors.Is(err, ErrTampered) {
				t.Errorf("tampering twice: %v", err)
			}
			steps, scripted := stateSteps(t, m, tamper.Name)
			switch {
			case inGuest && m.ShellT(t, script) == before:
				t.Error("the tamper does not show in the guest")
			case !inGuest && len(steps) == 0:
				t.Error("the tamper changed no memory nor register and has no script to observe it")
			case len(steps) > 0 && len(asBefore(t, m, steps)) == len(steps):
				t.Error("memory and registers are what they were before the tamper")
			}
			if err := m.Restore(t.Context(), tamper.Name); err != nil {
				t.Fatal(err)
			}
			switch {
			case inGuest:
				if after := m.ShellT(t, script); after != before && tamper.Name != "module-reload" { // loaded elsewhere
					t.Errorf("not restored: %q, was %q", after, before)
				}
			case !scripted: // else the memory may be gone with the module, process or probe it was of
				if same := asBefore(t, m, steps); len(same) != len(steps) {
					t.Errorf("only %v of %v are restored", same, steps)
				}
			}
			if err := m.Restore(t.Context(), tamper.Name); !errors.Is(err, ErrNotTampered) {
				t.Errorf("restoring twice: %v", err)
			}
		})
	}
	if err := m.Tamper(t.Context(), "no-such"); !errors.Is(err, ErrUnknownTamper) {
		t.Errorf("unknown tamper: %v", err)
	}
}

// stateSteps are the changes of memory and registers by a tamper in place, with
// what was there before, and whether scripts ran in the guest as well.
func stateSteps(t *testing.T, m *Machine, name string) (steps []undoStep, scripted bool) {
	t.Helper()
	all, err := readJournal(m.journal(name))
	if err != nil {
		t.Fatal(err)
	}
	steps = slices.DeleteFunc(slices.Clone(all), func(s undoStep) bool { return s.Script != "" })
	return steps, len(steps) < len(all)
}

// asBefore are the steps whose memory or register has the value from before.
func asBefore(t *testing.T, m *Machine, steps []undoStep) []undoStep {
	t.Helper()
	var same []undoStep
	for _, step := range steps {
		if step.Register != "" && readRegister(t, m, step) == step.Value ||
			step.Register == "" && bytes.Equal(readMemory(t, m, step), step.Bytes) {
			same = append(same, step)
		}
	}
	return same
}

func readRegister(t *testing.T, m *Machine, step undoStep) uint64 {
	t.Helper()
	stub, err := gdbstub.Dial(t.Context(), m.GDB)
	if err != nil {
		t.Fatal(err)
	}
	defer stub.Close()
	value, err := stub.ReadRegister(step.CPU, step.Register)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func readMemory(t *testing.T, m *Machine, step undoStep) []byte {
	t.Helper()
	if step.Process {
		now, err := m.readProcess(step.Address, len(step.Bytes))
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	mem, err := m.openMemory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mem.close()
	now := make([]byte, len(step.Bytes))
	if step.Physical != 0 {
		err = mem.readPhys(step.Physical, now)
	} else {
		err = mem.read(step.Address, now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func TestTwoMachinesSideBySide(t *testing.T) {
	first := sharedMachine(t)
	second := StartT(t, Options{UKI: UKIOther, CPUs: 1, Memory: 512 << 20, PrivateRAM: true})
	if first.Disk == second.Disk || first.QMP == second.QMP || first.PID == second.PID {
		t.Errorf("machines share: %+v %+v", first, second)
	}
	if cmdline := second.ShellT(t, "cat /proc/cmdline"); !strings.Contains(cmdline, "lockdown=none") {
		t.Errorf("the other kernel image has command line %q", cmdline)
	}
	if pcr := "cat /sys/class/tpm/tpm0/pcr-sha256/4"; first.ShellT(t, pcr) == second.ShellT(t, pcr) {
		t.Error("two kernel images, one value of PCR 4")
	}
	if err := second.Tamper(t.Context(), "kernel-text"); !errors.Is(err, errPrivateRAM) {
		t.Errorf("tamper with private RAM: %v", err)
	}
	if _, err := Start(t.Context(), Options{Dir: second.Dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("second start in one directory: %v", err)
	}
	second.ShellT(t, "true") // the refused start did it no harm
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Exec(t.Context(), "true"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("exec after Close: %v", err)
	}
	first.ShellT(t, "true")
}

// A machine within the machine that does not come up leaves nothing behind that would keep
// the next one from starting. What stands for QEMU here fails at once, or ends later.
func TestFailedNestedLeavesNothing(t *testing.T) {
	m := sharedMachine(t)
	const program = "/opt/plumbline/nested/lib/ld-linux-x86-64.so.2"
	m.ShellT(t, "mkdir -p $(dirname "+program+")")
	defer m.ShellT(t, "rm -r /opt/plumbline/nested")
	for script, want := range map[string]string{
		"echo no such kernel; exit 1": "no such kernel",
		"echo booting > " + nestedDir + "/serial; echo 999999 > " + nestedDir + "/pid": "the nested machine ended",
	} {
		m.ShellT(t, "printf '#!/bin/sh\\n%s\\n' '"+script+"' > "+program+" && chmod 755 "+program)
		for range 2 {
			if _, err := m.StartNested(t.Context(), NestedOptions{Kernel: "none", CPUs: 1}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", script, err, want)
			}
			m.ShellT(t, "test ! -e "+nestedDir)
		}
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	for name, options := range map[string]Options{
		"QEMU refuses":      {Plugin: "/no/such/plugin.so"},
		"given up half way": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PLUMBLINE_LAB_ACCEL", accelTCG)
			options.Dir = filepath.Join(t.TempDir(), "m")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "given up half way" {
				options.Log = onceBooting(cancel)
			}
			_, err := Start(ctx, options)
			var failure *StartError
			if !errors.As(err, &failure) {
				t.Fatalf("error %v, want a StartError", err)
			}
			if !strings.Contains(err.Error(), "qemu-system-x86_64 -name") {
				t.Errorf("the message lacks the command line: %v", err)
			}
			if left := processesWith(t, options.Dir); len(left) > 0 {
				t.Errorf("left running: %v", left)
			}
			if files, _ := filepath.Glob(filepath.Join(options.Dir, "*.img")); len(files) > 0 {
				t.Errorf("left on disk: %v", files)
			}
		})
	}
}

// onceBooting is a log that calls a function when the machine boots.
type onceBooting func()

func (f onceBooting) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("booting")) {
		f()
	}
	return len(p), nil
}

// processesWith lists processes whose command line mentions a directory.
func processesWith(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(dir)) {
			found = append(found, path+": "+string(bytes.ReplaceAll(data, []byte{0}, []byte{' '})))
		}
	}
	return found
}
