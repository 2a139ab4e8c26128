package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// NestedFiles puts into dir what a machine with dir as its [Options].Files needs
// to run machines of its own under its KVM: this host's QEMU with its libraries,
// loader and firmware, and of each kernel, by the names of [KernelNames], the
// package's vmlinuz, some modules and an initial RAM disk.
func NestedFiles(ctx context.Context, dir string, kernelNames ...string) error {
	if err := copyQEMU(ctx, filepath.Join(dir, "nested")); err != nil {
		return fmt.Errorf("QEMU for the guest: %w", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	for _, name := range kernelNames {
		img, err := openImage(ctx, cache, newRecipe(kernels[name]), os.Stderr)
		if err != nil {
			return err
		}
		if err := img.nestedKernel(filepath.Join(dir, "nested", name)); err != nil {
			return fmt.Errorf("%s for the guest: %w", name, err)
		}
	}
	return nil
}

// sharedObject finds what the dynamic loader would load in what ldd prints, the
// loader itself included.
var sharedObject = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// nestedFirmware is what QEMU loads to start a kernel that it is given, packages
// qemu-system-data and seabios.
var nestedFirmware = []string{
	"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/kvmvapic.bin",
}

func copyQEMU(ctx context.Context, to string) error {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return err
	}
	listed, err := output(ctx, "", "ldd", program)
	if err != nil {
		return err
	}
	err = copyFile(program, filepath.Join(to, "qemu"), 0o755)
	for _, match := range sharedObject.FindAllStringSubmatch(listed, -1) {
		err = errors.Join(err, copyFile(match[1], filepath.Join(to, "lib", filepath.Base(match[1])), 0o755))
	}
	for _, path := range nestedFirmware {
		err = errors.Join(err, copyFile(path, filepath.Join(to, "rom", filepath.Base(path)), 0o644))
	}
	return err
}

//go:embed nested-init
var nestedInit []byte

// nestedMarker is what nested-init prints when all is up.
const nestedMarker = "plumbline-nested: userspace"

// nestedKernel puts the kernel into dir, and the modules of the initial RAM disk
// both there and in modules/.
func (i *image) nestedKernel(dir string) error {
	if err := copyFile(i.vmlinuz(), filepath.Join(dir, "vmlinuz"), 0o644); err != nil {
		return err
	}
	tree, err := openModuleTree(i.modules())
	if err != nil {
		return err
	}
	order, err := tree.closure(i.recipe.Initrd)
	if err != nil {
		return err
	}
	for _, name := range order {
		file := tree.files[name]
		if err := copyFile(filepath.Join(tree.dir, file), filepath.Join(dir, "modules", filepath.Base(file)), 0o644); err != nil {
			return err
		}
	}
	return i.writeInitrd(filepath.Join(dir, "initrd"), nestedInit, tree, order)
}

// A Nested is a machine that runs under the KVM of another. Paths are in that
// other machine.
type Nested struct {
	QMP     string // monitor socket
	Vmlinuz string // of the kernel's package
	Modules string // the files of the modules that it loads

	machine *Machine
}

// NestedOptions say what machine to start within a machine.
type NestedOptions struct {
	Kernel     string // one of those given to [NestedFiles]
	CPUs       int
	PrivateRAM bool // leave RAM to QEMU alone instead of a shared memory file
}

// nestedDir is where a nested machine's sockets and logs are, in the machine that
// runs it.
const nestedDir = "/run/plumbline-nested"

// nestedCPU leaves XSAVE out: a guest's guest under TCG sees sizes of it that do not
// fit, which Linux 6.1 and 6.12 warn of (fpu__init_system_xstate) and with which 5.10
// does not come up. What needs XSAVE is left out with it: QEMU leaves it in, and 7.2
// takes AVX for usable where CPUID has it (polyval_mul_pclmul_avx: invalid opcode).
const nestedCPU = "host,-xsave,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq"

// StartNested starts the one nested machine and waits until its user mode is up.
func (m *Machine) StartNested(ctx context.Context, o NestedOptions) (*Nested, error) {
	kernel := "/opt/plumbline/nested/" + o.Kernel
	n := &Nested{QMP: nestedDir + "/qmp", Vmlinuz: kernel + "/vmlinuz", Modules: kernel + "/modules", machine: m}
	command := []string{"./lib/ld-linux-x86-64.so.2", "--library-path", "lib", "./qemu", "-L", "rom", "-daemonize",
		"-pidfile", nestedDir + "/pid", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "kvm", "-cpu", nestedCPU, "-smp", fmt.Sprint(o.CPUs), "-m", "384M",
		"-qmp", "unix:" + n.QMP + ",server=on,wait=off", "-serial", "file:" + nestedDir + "/serial",
		"-kernel", n.Vmlinuz, "-initrd", kernel + "/initrd", "-append", "console=ttyS0 panic=-1 no_timer_check"}
	machine := "q35"
	if !o.PrivateRAM {
		command = append(command, "-object", "memory-backend-memfd,id=ram,size=384M,share=on")
		machine += ",memory-backend=ram"
	}
	command = append(command, "-machine", machine)
	if _, err := m.Shell(ctx, "mkdir "+nestedDir); err != nil {
		return nil, err
	}
	_, err := m.Shell(ctx, "cd /opt/plumbline/nested && "+shellQuote(command))
	if err == nil {
		err = n.wait(ctx)
	}
	if err != nil {
		// Not by ctx, which may be why: what is left keeps the next one from starting.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(err, n.Close(ctx))
	}
	return n, nil
}

// wait returns once the nested machine's user mode is up.
func (n *Nested) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	for {
		log, err := n.Console(ctx)
		if err != nil {
			return err
		}
		if strings.Contains(log, nestedMarker) {
			return nil
		}
		if _, err := n.machine.Shell(ctx, "kill -0 $(cat "+nestedDir+"/pid)"); err != nil {
			return fmt.Errorf("the nested machine ended: %w\n%s", err, tail(log, 30))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the nested machine: %w\n%s", ctx.Err(), tail(log, 30))
		case <-time.After(2 * time.Second):
		}
	}
}

// Console is what the nested machine printed.
func (n *Nested) Console(ctx context.Context) (string, error) {
	return n.machine.Shell(ctx, "cat "+nestedDir+"/serial")
}

// Close ends the nested machine.
func (n *Nested) Close(ctx context.Context) error {
	_, err := n.machine.Shell(ctx, "p=$(cat "+nestedDir+"/pid) && kill $p && while kill -0 $p; do sleep 0.2; done 2>/dev/null; rm -rf "+nestedDir)
	return err
}
