package lab

import (
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// xenPackage is where a version of Xen comes from.
type xenPackage struct {
	suite    string
	packages []string
	symbols  string // the hypervisor with its symbols, within the packages
}

// xens are the versions that a machine can boot, by the name users give.
var xens = map[string]xenPackage{
	"4.14": {"bullseye", []string{"xen-hypervisor-4.14-amd64"}, "usr/lib/debug/xen-syms-4.14.?.gz"},
	"4.17": {"bookworm", []string{"xen-hypervisor-4.17-amd64", "xen-hypervisor-4.17-amd64-dbg"}, "usr/lib/debug/boot/xen-syms-4.17-amd64"},
	"4.20": {"trixie", []string{"xen-hypervisor-4.20-amd64", "xen-hypervisor-4.20-amd64-dbg"}, "usr/lib/debug/boot/xen-syms-4.20-amd64"},
}

// XenVersions lists what [Options].Xen takes.
func XenVersions() []string { return slices.Sorted(maps.Keys(xens)) }

// DefaultXenCPU is a model under which every version of Xen boots on QEMU's TCG:
// with SMAP or SMEP it crashes while it builds the first domain. With SVM it can
// run hardware-assisted domains.
const DefaultXenCPU = "max,+svm,-smap,-smep"

// xenImage is a version of Xen in the cache.
type xenImage struct{ dir string }

func (x xenImage) file() string     { return filepath.Join(x.dir, "xen.gz") }  // as in /boot
func (x xenImage) unpacked() string { return filepath.Join(x.dir, "xen") }     // as QEMU's -kernel takes it
func (x xenImage) symbols() string  { return filepath.Join(x.dir, "symbols") } // ELF with a symbol table

// openXen returns a version of Xen, downloaded if the cache has none.
func openXen(ctx context.Context, cache, version string, log io.Writer) (xenImage, error) {
	dir, err := cached(ctx, cache, filepath.Join("xen", version), func(dir string) error {
		fmt.Fprintf(log, "fetching Xen %s\n", version)
		return fetchXen(ctx, xenImage{dir}, version)
	})
	if err != nil {
		return xenImage{}, fmt.Errorf("fetch Xen %s: %w", version, err)
	}
	return xenImage{dir}, nil
}

func fetchXen(ctx context.Context, x xenImage, version string) error {
	from := xens[version]
	apt, err := newApt(ctx, filepath.Join(x.dir, "apt"), from.suite)
	if err != nil {
		return err
	}
	defer os.RemoveAll(apt.dir)
	unpacked := filepath.Join(x.dir, "unpacked")
	defer os.RemoveAll(unpacked)
	if err := apt.extract(ctx, unpacked, from.packages...); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(unpacked, "boot", "xen-"+version+"-amd64.gz"), x.file()); err != nil {
		return err
	}
	if err := gunzip(x.file(), x.unpacked()); err != nil {
		return err
	}
	symbols, err := filepath.Glob(filepath.Join(unpacked, from.symbols))
	if err != nil || len(symbols) != 1 {
		return fmt.Errorf("the packages hold no %s: %v", from.symbols, err)
	}
	if strings.HasSuffix(symbols[0], ".gz") {
		return gunzip(symbols[0], x.symbols())
	}
	return os.Rename(symbols[0], x.symbols())
}

func gunzip(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}

// xenCommandLine is QEMU's for a machine that boots Xen: it loads Xen as a
// multiboot kernel with the first domain's kernel and initial RAM disk as modules.
// There is no firmware of ours, no TPM and no BMC.
func (m *Machine) xenCommandLine(o Options) []string {
	const mib = 1 << 20
	argv := []string{"qemu-system-x86_64",
		"-name", "plumbline-lab-xen", "-nodefaults", "-no-user-config", "-display", "none", "-no-shutdown",
		"-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprintf("%dM", m.Memory/mib), "-accel", accelTCG + ",thread=multi", "-cpu", o.CPU,
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=on", m.Memory/mib, escape(m.RAM)),
		"-machine", "q35,memory-backend=ram",
		"-kernel", filepath.Join(filepath.Dir(m.Xen), "xen"),
		"-append", fmt.Sprintf("console=com1 com1=115200 dom0_mem=%dM", m.Memory/mib/2),
		"-initrd", fmt.Sprintf("%s root=UUID=%s console=hvc0 loglevel=4 panic=-1 init=/usr/lib/plumbline-lab/init,%s", escape(m.Vmlinuz), rootUUID, escape(m.Initrd)),
	}
	add := func(args ...string) { argv = append(argv, args...) }
	m.addSockets(add)
	m.addRoot(add)
	m.addFiles(add, o)
	m.addAgent(add)
	return argv
}

// useXens takes Xen's own page tables in place of those of the guest that a CPU
// ran: a guest's come and go, and with XPTI show of Xen's image the entry code
// only. The image is contiguous in physical memory.
func (g *guestMemory) useXens(file string) error {
	at, err := xenImage{filepath.Dir(file)}.lookup("idle_pg_table", "_stextentry")
	if err != nil {
		return err
	}
	entry, err := g.translate(at[1])
	g.regs.cr3 = entry + at[0] - at[1]
	g.xen = true
	return err
}

// xenSymbols returns addresses of Xen's symbols, by the symbol table of its
// build: the lab may have that, the product never does. A name of the form "a|b"
// is the first of these that there is.
func (c *change) xenSymbols(names ...string) ([]uint64, error) {
	return xenImage{filepath.Dir(c.machine.Xen)}.lookup(names...)
}

func (x xenImage) lookup(names ...string) ([]uint64, error) {
	file, err := elf.Open(x.symbols())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	table, err := file.Symbols()
	if err != nil {
		return nil, err
	}
	out := make([]uint64, len(names))
	for i, name := range names {
		for alternative := range strings.SplitSeq(name, "|") {
			for _, s := range table {
				if out[i] == 0 && s.Name == alternative {
					out[i] = s.Value
				}
			}
		}
		if out[i] == 0 {
			return nil, fmt.Errorf("%s: %w", name, ErrNoSubject)
		}
	}
	return out, nil
}
