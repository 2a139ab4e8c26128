// Package lab builds, boots and changes real test machines: a Debian guest
// under QEMU with UEFI Secure Boot, SMM, a TPM 2.0 with an EK certificate, a
// BMC behind /dev/ipmi0, IMA, an ext4 root and KVM loaded inside.
//
// It is a tool for tests, demonstrations and benchmarks. Nothing of the
// product talks to a machine the way the lab does: through a guest agent and
// by knowing where everything is.
//
// A machine lives in a directory. Start boots one and leaves it running when
// the process ends; Open finds it again; Close ends all that Start began. The
// image behind it is built once per recipe from Debian packages and kept in a
// cache outside the source tree.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

var (
	// ErrRunning: the directory holds a machine that runs.
	ErrRunning = errors.New("a machine is already running")
	// ErrNoMachine: the directory holds no machine.
	ErrNoMachine = errors.New("no machine")
	// ErrNotRunning: the machine has ended.
	ErrNotRunning = errors.New("machine is not running")
)

// Options say what machine to start. The zero value is the common one.
type Options struct {
	// Dir holds the machine's disk, sockets and state. Empty: a new temporary
	// directory, removed by Close. Socket paths must fit in 107 bytes.
	Dir string
	// Kernel is one of KernelNames; empty: DefaultKernel.
	Kernel string
	// Xen is a version of Xen to boot, one of XenVersions, with the kernel as that
	// of its first domain; empty: none. Such a machine runs on TCG and has neither
	// UEFI, TPM, BMC nor network; UKI, Append, Disks, BMC and Plugin do not apply.
	Xen string
	// UKI is the signed kernel image to boot; empty: UKIDefault.
	UKI string
	// Append is added to the kernel's command line. Such a machine boots from QEMU's
	// hand and without UEFI, for nothing signs another command line; empty: it boots
	// the UKI.
	Append string
	// Memory is the guest's RAM in bytes; 0: 1 GiB.
	Memory int64
	// CPUs is the number of virtual CPUs; 0: 2.
	CPUs int
	// CPU is QEMU's model of them under TCG, with its features; empty:
	// DefaultCPU, or DefaultXenCPU if the machine boots Xen.
	CPU string
	// PrivateRAM leaves RAM to QEMU alone instead of a shared file.
	PrivateRAM bool
	// Files, if not empty, is a directory whose content the guest finds,
	// read-only, in /opt/plumbline.
	Files string
	// Disks are raw images that the guest finds as further disks, which it may
	// write; the nth, from 0, has the serial number plumbline-disk and n. They are
	// the caller's, and must stay while the machine runs.
	Disks []string
	// BMC makes the command of the machine's BMC, which writes BMCInfo and
	// listens on BMCSocket. Nil: no BMC is started and the socket is left for
	// someone else's; QEMU tries it again every 2 s.
	BMC func(*Machine) []string
	// Plugin is a QEMU TCG plugin to load; it gets the option
	// control=SOCKET. Empty: none. Ignored when not running under TCG.
	Plugin string
	// Log receives progress for people; nil: discarded.
	Log io.Writer
}

// DefaultCPU is everything that QEMU emulates, and AMD's virtualization.
const DefaultCPU = "max,+svm"

// Machine is a running test machine. Its JSON form is what "plumbline-lab up"
// prints and what DIR/machine.json holds.
type Machine struct {
	QMP     string `json:"qmp"`           // monitor socket, for the product
	RAM     string `json:"ram,omitempty"` // the guest's RAM as a shared file; absent with private RAM
	GDB     string `json:"gdb"`           // gdb remote protocol, Unix socket
	Serial  string `json:"serial"`        // serial console, Unix socket
	Disk    string `json:"disk"`          // raw image of the root file system, no partition table
	Vmlinuz string `json:"vmlinuz"`       // the kernel package's vmlinuz
	Modules string `json:"modules"`       // the kernel package's lib/modules/VERSION
	Xen     string `json:"xen,omitempty"` // the Xen package's file, as in /boot; absent without
	PID     int    `json:"pid"`           // of QEMU
	BMC     *BMC   `json:"bmc,omitempty"` // absent without a BMC of ours
	TPM     string `json:"tpm"`           // control socket of the guest's swtpm

	Dir       string `json:"dir"`
	LabQMP    string `json:"lab_qmp"`        // a monitor for the lab itself
	EventsQMP string `json:"qmp_events"`     // a monitor for long-lived listeners: each serves one client at a time
	Agent     string `json:"agent"`          // guest agent, for the lab itself
	SerialLog string `json:"serial_log"`     // all the serial console ever printed
	BMCSocket string `json:"bmc_socket"`     // where QEMU looks for a BMC (ipmi-bmc-extern)
	HostTPM   string `json:"host_tpm"`       // the measuring host's TPM: data socket of a second swtpm
	TPMCA     string `json:"tpm_ca"`         // PEM: root and intermediate behind both EK certificates
	ESP       string `json:"esp"`            // raw image of the EFI system partition
	UKI       string `json:"uki"`            // the signed kernel image in it
	Initrd    string `json:"initrd"`         // initial RAM disk within the UKI
	Trap      string `json:"trap,omitempty"` // control socket of the trap plugin, if loaded
	Kernel    string `json:"kernel"`         // uname -r
	Accel     string `json:"accel"`          // "tcg" or "kvm"
	Memory    int64  `json:"memory"`         // bytes
	CPUs      int    `json:"cpus"`
	CPU       string `json:"cpu,omitempty"`       // model
	BootMS    int64  `json:"boot_ms"`             // from starting QEMU to a guest agent that answers
	Temporary bool   `json:"temporary,omitempty"` // Dir is removed by Close

	Processes []Process `json:"processes"` // all that must end with the machine
	Command   []string  `json:"command"`   // QEMU's
}

// BMC is how to reach the machine's BMC over the LAN.
type BMC struct {
	Address  string `json:"address"` // host:port, UDP
	Username string `json:"username"`
	Password string `json:"password"`
}

const stateFile = "machine.json"

// Open finds the machine in dir, running or not.
func Open(dir string) (*Machine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoMachine)
	}
	if err != nil {
		return nil, err
	}
	m := new(Machine)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	return m, nil
}

// Running says whether the machine's QEMU runs.
func (m *Machine) Running() bool {
	for _, p := range m.Processes {
		if p.Name == "qemu" && p.alive() {
			return true
		}
	}
	return false
}

// Exec runs a command in the guest as root, without a shell, and waits for it.
// A command that ran and failed is no error: see Result.
func (m *Machine) Exec(ctx context.Context, argv ...string) (*Result, error) {
	return m.ExecInput(ctx, nil, argv...)
}

// ExecInput is Exec with something on the command's standard input.
func (m *Machine) ExecInput(ctx context.Context, stdin []byte, argv ...string) (*Result, error) {
	if !m.Running() {
		return nil, ErrNotRunning
	}
	return m.guest().exec(ctx, argv, stdin)
}

// Shell runs a script with the guest's /bin/sh and returns its output; a
// script that fails is an error.
func (m *Machine) Shell(ctx context.Context, script string) (string, error) {
	result, err := m.Exec(ctx, "sh", "-c", script)
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 || result.Signal != 0 {
		return "", fmt.Errorf("%w: exit %d, signal %d: %s", errExecStatus, result.ExitCode, result.Signal,
			tail(string(result.Stdout)+string(result.Stderr), 10))
	}
	return string(result.Stdout), nil
}

// Close ends all that Start began, in reverse order, and removes the files
// that only a running machine needs.
func (m *Machine) Close() error {
	var errs []error
	for i := len(m.Processes) - 1; i >= 0; i-- {
		errs = append(errs, m.Processes[i].end(5*time.Second))
	}
	if err := errors.Join(errs...); err != nil {
		return err // keep the state: there is still something to end
	}
	if m.RAM != "" {
		errs = append(errs, ignoreMissing(os.Remove(m.RAM)))
	}
	if m.Temporary {
		return errors.Join(append(errs, os.RemoveAll(m.Dir))...)
	}
	for _, path := range m.files() {
		errs = append(errs, ignoreMissing(os.RemoveAll(path)))
	}
	errs = append(errs, ignoreMissing(os.Remove(filepath.Join(m.Dir, stateFile))))
	return errors.Join(errs...)
}

// files are the machine's own, logs apart: they are kept for reading.
func (m *Machine) files() []string {
	var paths []string
	for _, name := range []string{
		"qmp.sock", "lab-qmp.sock", "qmp-events.sock", "gdb.sock", "serial.sock", "agent.sock", "agent.lock",
		"bmc.sock", "bmc.json", "trap.sock", "tpm", "tpm.sock", "host-tpm", "host-tpm.sock", "host-tpm-ctrl.sock",
		"root.img", "esp.img", "vars.fd", "files.img", "tampers", "kallsyms",
	} {
		paths = append(paths, filepath.Join(m.Dir, name))
	}
	return paths
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (m *Machine) guest() guestAgent {
	return guestAgent{socket: m.Agent, lock: filepath.Join(m.Dir, "agent.lock"), stale: m.freshen}
}

// save writes machine.json; it is there from the first process on, so that
// even an interrupted start can be taken down.
func (m *Machine) save() error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(m.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
