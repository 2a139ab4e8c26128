package lab

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"sort"
	"strings"
)

// guestFiles are the few files in the guest that no Debian package brings.
//
//go:embed guest
var guestFiles embed.FS

// recipeVersion is raised when the code that builds an image changes in a way
// that the fields of recipe do not show.
const recipeVersion = 2

// A Kernel names a Debian kernel package by suite and flavour.
type Kernel struct {
	Suite   string // "bookworm"; whose linux-image package is taken
	Flavour string // "amd64", or "cloud-amd64" (no IPMI, no 9p)
}

// kernels are the kernels a machine can have, by the name users give.
var kernels = map[string]Kernel{
	"bookworm":       {"bookworm", "amd64"},
	"bookworm-cloud": {"bookworm", "cloud-amd64"},
	"bullseye":       {"bullseye", "amd64"},
	"bullseye-cloud": {"bullseye", "cloud-amd64"},
	"trixie":         {"trixie", "amd64"},
	"trixie-cloud":   {"trixie", "cloud-amd64"},
	"sid":            {"sid", "amd64"},
	"sid-cloud":      {"sid", "cloud-amd64"},
}

// DefaultKernel is the kernel of a machine that asks for no other.
const DefaultKernel = "bookworm"

// KernelNames lists the names that [Options].Kernel takes.
func KernelNames() []string {
	names := make([]string, 0, len(kernels))
	for name := range kernels {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (k Kernel) metapackage() string { return "linux-image-" + k.Flavour }

// recipe is all that decides what an image is; its hash names the image in
// the cache, so a changed recipe is another image.
type recipe struct {
	Version  int
	Kernel   Kernel
	Userland string            // Debian suite of the guest's packages
	Packages []string          // beyond those of a minimal system
	Spares   []string          // packages left in /srv/packages for tests to install
	Initrd   []string          // modules needed to mount the root
	Boot     []string          // modules loaded at boot, in this order
	Spare    []string          // modules at hand for tests, loaded by nobody
	Cmdline  map[string]string // kernel command line by UKI name
	RootMiB  int
	Files    map[string]string // hash by name of each guest file
}

// rootUUID is the UUID of the guest's root file system, the same in every
// machine so that the kernel command line, and with it the digest of the UKI,
// is the same in all of them.
const rootUUID = "6c6f7074-7562-4d6c-a9c1-0c0ffee1ab01"

// UKI names: what [Options].UKI takes.
const (
	UKIDefault = "default"
	UKIOther   = "other" // as properly signed, with another command line
)

// baseCmdline has the kernel not check that the timer ticks: it gives it 40 ms, and
// panics where QEMU does not get a processor for so long (timer_irq_works,
// arch/x86/kernel/apic/io_apic.c).
const baseCmdline = "root=UUID=" + rootUUID + " console=ttyS0 loglevel=4 panic=-1 no_timer_check" +
	" ima_policy=tcb ima_hash=sha256 init=/usr/lib/plumbline-lab/init"

func newRecipe(kernel Kernel) recipe {
	return recipe{
		Version:  recipeVersion,
		Kernel:   kernel,
		Userland: "bookworm",
		Packages: []string{
			"acl", "attr", "bpftool", "busybox-static", "ca-certificates", "e2fsprogs",
			"file", "ipmitool", "iproute2", "iputils-ping", "kmod", "less", "libcap2-bin",
			"procps", "psmisc", "python3-minimal", "qemu-guest-agent", "strace", "sudo", "tpm2-tools",
		},
		Spares: []string{"hello"},
		Initrd: []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"},
		Boot: []string{
			"virtio_console", "virtio_net", "virtio_rng", "efivarfs", "evdev", "button",
			"irqbypass", "ccp", "kvm", "kvm-amd", "kvm-intel", "ipmi_devintf", "ipmi_si",
		},
		Spare: []string{
			"dummy", "tun", "loop", "msr", "veth", "bridge", "xfs", "vfat", "nls_ascii", "nls_cp437",
			"nf_tables", "nft_chain_nat", "af_packet_diag", "tcp_diag", "inet_diag", "ip_tables", "xt_tcpudp",
			"sch_ingress", "cls_bpf", "act_bpf",
			"algif_hash", "configfs", "fuse", "overlay", "binfmt_misc",
		},
		Cmdline: map[string]string{
			UKIDefault: baseCmdline,
			UKIOther:   baseCmdline + " lockdown=none audit=0",
		},
		RootMiB: 1024,
		Files:   hashGuestFiles(),
	}
}

func hashGuestFiles() map[string]string {
	hashes := make(map[string]string)
	entries, err := fs.ReadDir(guestFiles, "guest")
	if err != nil {
		panic(err) // embedded: cannot fail at run time
	}
	for _, entry := range entries {
		data, err := guestFiles.ReadFile("guest/" + entry.Name())
		if err != nil {
			panic(err)
		}
		hashes[entry.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return hashes
}

// key is the name of the recipe's image in the cache.
func (r recipe) key() string {
	data, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and maps of strings: always marshals
	}
	sum := sha256.Sum256(data)
	return strings.Join([]string{r.Kernel.Suite, r.Kernel.Flavour, hex.EncodeToString(sum[:8])}, "-")
}
