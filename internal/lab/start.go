package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// bootTimeout bounds the time from starting QEMU to a guest agent that
// answers: 25 s under TCG on an idle machine, over ten times that on one with a
// dozen others, and that on a slower one.
const bootTimeout = 20 * time.Minute

// freshenEvery is how often the code of a machine that boots is translated anew,
// lest it be stale: see stale.go.
const freshenEvery = 2 * time.Minute

// A StartError is a machine that did not come up. Nothing of it runs any more.
type StartError struct {
	Err     error
	Command []string // QEMU's, to reproduce it
	Serial  string   // the end of the serial console
	Log     string   // what QEMU printed
}

func (e *StartError) Error() string {
	return fmt.Sprintf("machine did not start: %v\nQEMU's command line:\n  %s\nQEMU said:\n%s\nend of the serial console:\n%s",
		e.Err, shellQuote(e.Command), indent(e.Log), indent(e.Serial))
}

func (e *StartError) Unwrap() error { return e.Err }

// Start builds what is missing, boots a machine and returns once its guest
// agent answers. The machine outlives ctx and the process.
func Start(ctx context.Context, o Options) (*Machine, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	img, err := openImage(ctx, cache, newRecipe(kernels[o.Kernel]), o.Log)
	if err != nil {
		return nil, err
	}
	authority, err := tpmAuthority(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("TPM certificate authority: %w", err)
	}
	accel, err := accelerator(ctx, cache, img, o.Log)
	if err != nil {
		return nil, err
	}
	if o.Xen != "" {
		accel = accelTCG
	}
	m, err := newMachine(o, img, authority, accel)
	if err != nil {
		return nil, err
	}
	if o.Xen != "" {
		x, err := openXen(ctx, cache, o.Xen, o.Log)
		if err != nil {
			return nil, err
		}
		m.Xen = x.file()
	}
	if err := m.start(ctx, o, img, authority); err != nil {
		failure := &StartError{Err: err, Command: m.Command,
			Serial: fileTail(m.SerialLog, 40), Log: fileTail(filepath.Join(m.Dir, "qemu.log"), 20)}
		if errClose := m.Close(); errClose != nil {
			failure.Err = errors.Join(err, errClose)
		}
		return nil, failure
	}
	return m, nil
}

// complete fills in defaults and refuses what cannot be.
func (o *Options) complete() error {
	if o.Kernel == "" {
		o.Kernel = DefaultKernel
	}
	if _, ok := kernels[o.Kernel]; !ok {
		return fmt.Errorf("unknown kernel %q, want one of %s", o.Kernel, strings.Join(KernelNames(), ", "))
	}
	if err := o.completeXen(); err != nil {
		return err
	}
	if o.UKI == "" {
		o.UKI = UKIDefault
	}
	if o.UKI != UKIDefault && o.UKI != UKIOther {
		return fmt.Errorf("unknown kernel image %q, want %s or %s", o.UKI, UKIDefault, UKIOther)
	}
	if o.Memory == 0 {
		o.Memory = 1 << 30
	}
	if o.Memory < 256<<20 || o.Memory%(1<<20) != 0 {
		return fmt.Errorf("memory of %d bytes: want whole MiB, at least 256", o.Memory)
	}
	if o.CPU == "" {
		o.CPU = DefaultCPU
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.CPUs < 1 || o.CPUs > 64 {
		return fmt.Errorf("%d CPUs: want 1 to 64", o.CPUs)
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return nil
}

// completeXen refuses what a machine that boots Xen does not have.
func (o *Options) completeXen() error {
	if o.Xen == "" {
		return nil
	}
	if _, ok := xens[o.Xen]; !ok {
		return fmt.Errorf("unknown version of Xen %q, want one of %s", o.Xen, strings.Join(XenVersions(), ", "))
	}
	if o.BMC != nil || len(o.Disks) > 0 || o.Plugin != "" || o.UKI != "" || o.Append != "" || o.PrivateRAM {
		return errors.New("a machine that boots Xen has no BMC, no further disks, no plugin, no other kernel image or command line and no private RAM")
	}
	if o.CPU == "" {
		o.CPU = DefaultXenCPU
	}
	return nil
}

// newMachine claims the directory and names everything in it.
func newMachine(o Options, img *image, authority, accel string) (*Machine, error) {
	m := &Machine{Dir: o.Dir}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "plumbline-")
		if err != nil {
			return nil, err
		}
		m.Dir, m.Temporary = dir, true
	}
	var err error
	if m.Dir, err = filepath.Abs(m.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return nil, err
	}
	if old, err := Open(m.Dir); err == nil {
		if old.Running() {
			return nil, fmt.Errorf("%s: %w", m.Dir, ErrRunning)
		}
		if err := old.Close(); err != nil { // what an interrupted start left
			return nil, err
		}
	}
	in := func(name string) string { return filepath.Join(m.Dir, name) }
	m.QMP, m.LabQMP, m.EventsQMP = in("qmp.sock"), in("lab-qmp.sock"), in("qmp-events.sock")
	m.GDB, m.Serial, m.Agent = in("gdb.sock"), in("serial.sock"), in("agent.sock")
	m.SerialLog, m.Disk, m.ESP = in("serial.log"), in("root.img"), in("esp.img")
	m.TPM, m.HostTPM, m.BMCSocket = in("tpm.sock"), in("host-tpm.sock"), in("bmc.sock")
	m.TPMCA = filepath.Join(authority, "ca.pem")
	m.Vmlinuz, m.Modules, m.Kernel = img.vmlinuz(), img.modules(), img.info.Release
	m.UKI, m.Initrd = img.uki(o.UKI), img.initrd()
	m.Accel, m.Memory, m.CPUs, m.CPU = accel, o.Memory, o.CPUs, o.CPU
	if o.Plugin != "" && accel == accelTCG {
		m.Trap = in("trap.sock")
	}
	const maxSocketPath = 107 // unix(7): sun_path
	if longest := in("host-tpm-ctrl.sock"); len(longest) > maxSocketPath {
		return nil, fmt.Errorf("directory name too long: %s would exceed %d bytes", longest, maxSocketPath)
	}
	if !o.PrivateRAM {
		if m.RAM, err = ramFile(m.Dir); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// ramFile makes an empty file for the guest's RAM, on a memory file system
// where there is one: elsewhere the kernel would write it back all the time.
func ramFile(dir string) (string, error) {
	for _, where := range []string{"/dev/shm", dir} {
		file, err := os.CreateTemp(where, "plumbline-*.ram")
		if err == nil {
			return file.Name(), file.Close()
		}
		if where == dir {
			return "", err
		}
	}
	return "", nil
}

// start brings up the machine's parts in order.
func (m *Machine) start(ctx context.Context, o Options, img *image, authority string) error {
	if err := m.prepareDisks(ctx, o, img); err != nil {
		return err
	}
	if m.Xen == "" {
		if err := m.startTPMs(ctx, authority); err != nil {
			return err
		}
	}
	if err := m.startBMC(ctx, o); err != nil {
		return err
	}
	major, minor, err := qemuVersion(ctx)
	if err != nil {
		return err
	}
	m.Command = m.commandLine(o, reconnectOption(major, minor))
	began := time.Now()
	qemu, err := startProcess("qemu", filepath.Join(m.Dir, "qemu.log"), m.Command...)
	if err != nil {
		return err
	}
	m.PID = qemu.PID
	if err := m.own(qemu); err != nil {
		return err
	}
	fmt.Fprintf(o.Log, "booting (%s)\n", m.Accel)
	if err := m.awaitGuest(ctx, qemu); err != nil {
		return err
	}
	m.BootMS = time.Since(began).Milliseconds()
	return m.save()
}

// own records a process, at once, so that it is ended whatever comes.
func (m *Machine) own(p Process) error {
	if p.PID == 0 {
		return nil
	}
	m.Processes = append(m.Processes, p)
	return m.save()
}

func (m *Machine) prepareDisks(ctx context.Context, o Options, img *image) error {
	for _, path := range append(m.files(), m.SerialLog, filepath.Join(m.Dir, "qemu.log")) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := copySparse(ctx, img.root(), m.Disk); err != nil {
		return err
	}
	if m.Xen == "" { // which boots from QEMU's hand
		if err := copySparse(ctx, img.esp(o.UKI), m.ESP); err != nil {
			return err
		}
		if err := copyFile(firmwareVars, filepath.Join(m.Dir, "vars.fd"), 0o600); err != nil {
			return fmt.Errorf("firmware of package ovmf: %w", err)
		}
	}
	if o.Files == "" {
		return nil
	}
	return buildFilesDisk(ctx, o.Files, filepath.Join(m.Dir, "files.img"))
}

// buildFilesDisk puts a directory's content on a disk of its own.
func buildFilesDisk(ctx context.Context, from, to string) error {
	var size int64
	err := filepath.Walk(from, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			size += info.Size() + 4096
		}
		return err
	})
	if err != nil {
		return err
	}
	const mib = 1 << 20
	return run(ctx, "", "mke2fs", "-q", "-t", "ext4", "-d", from, "-E", "root_owner=0:0,lazy_itable_init=0",
		to, fmt.Sprintf("%dM", size*5/4/mib+16))
}

func (m *Machine) startTPMs(ctx context.Context, authority string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, name := range []string{"tpm", "host-tpm"} {
		state := filepath.Join(m.Dir, name)
		if err := os.MkdirAll(state, 0o700); err != nil {
			return err
		}
		if err := makeTPM(ctx, authority, state); err != nil {
			return err
		}
	}
	p, err := startTPM(ctx, filepath.Join(m.Dir, "tpm"), m.TPM, filepath.Join(m.Dir, "swtpm.log"))
	if err = errors.Join(m.own(p), err); err != nil {
		return err
	}
	p, err = startHostTPM(ctx, filepath.Join(m.Dir, "host-tpm"), filepath.Join(m.Dir, "host-tpm-ctrl.sock"),
		m.HostTPM, filepath.Join(m.Dir, "host-swtpm.log"))
	return errors.Join(m.own(p), err)
}

func (m *Machine) startBMC(ctx context.Context, o Options) error {
	if o.BMC == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	p, err := startProcess("bmc", filepath.Join(m.Dir, "bmc.log"), o.BMC(m)...)
	if err = errors.Join(err, m.own(p)); err != nil {
		return err
	}
	if err := waitFor(ctx, p, m.BMCSocket); err != nil {
		return fmt.Errorf("%w\n%s", err, fileTail(filepath.Join(m.Dir, "bmc.log"), 10))
	}
	info, err := os.ReadFile(m.BMCInfo())
	if err != nil {
		return err
	}
	m.BMC = new(BMC)
	return json.Unmarshal(info, m.BMC)
}

// BMCInfo is the file in which a BMC started by [Options].BMC leaves the JSON
// form of [BMC] before it listens on BMCSocket.
func (m *Machine) BMCInfo() string { return filepath.Join(m.Dir, "bmc.json") }

// awaitGuest waits for the guest agent, and no longer than there is hope.
func (m *Machine) awaitGuest(ctx context.Context, qemu Process) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := waitFor(ctx, qemu, m.LabQMP); err != nil {
		return err
	}
	monitor, err := qmp.Dial(ctx, m.LabQMP)
	if err != nil {
		return err
	}
	defer monitor.Close()
	events := monitor.Subscribe()
	began := time.Now()
	for freshened := began; ; {
		// A short deadline: before the agent runs, requests get no answer. It is
		// longer where all takes longer.
		ping, cancelPing := context.WithTimeout(ctx, 2*time.Second+time.Since(began)/20)
		err := m.guest().call(ping, "guest-ping", nil, nil)
		cancelPing()
		switch {
		case err == nil:
			return nil
		case !qemu.alive():
			return errors.New("QEMU ended")
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the guest agent: %w", ctx.Err())
		}
		if err := bootFailure(events); err != nil {
			return err
		}
		if time.Since(freshened) > freshenEvery {
			m.freshenBy(ctx, monitor) // what it cannot do now it may next time
			freshened = time.Now()
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// bootFailure looks at what the monitor has told so far for an end that QEMU
// itself survives: the firmware found nothing to boot and powered off, or the
// kernel panicked and was reset.
func bootFailure(events *qmp.Subscription) error {
	for {
		select {
		case event, ok := <-events.C:
			switch {
			case !ok:
				return errors.New("QEMU ended")
			case event.Name == "SHUTDOWN":
				return errors.New("the guest powered off while it booted")
			case event.Name == "RESET" && strings.Contains(string(event.Data), `"guest-reset"`):
				return errors.New("the guest reset itself while it booted")
			}
		default:
			return nil
		}
	}
}

// fileTail returns the last lines of a text file, printable.
func fileTail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f {
			return r
		}
		return -1
	}, string(data))
	return tail(clean, lines)
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// shellQuote makes a command line that can be pasted into a shell.
func shellQuote(argv []string) string {
	quoted := make([]string, len(argv))
	for i, word := range argv {
		quoted[i] = word
		if word == "" || strings.ContainsAny(word, " \t\n'\"$&|;<>()*?[]#~`\\!{}") {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
