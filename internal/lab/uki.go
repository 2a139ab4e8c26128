package lab

import (
	"context"
	"debug/pe"
	"fmt"
	"os"
	"path/filepath"
)

// Files of Debian packages that a machine is made of.
const (
	efiStub      = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub" // systemd-boot-efi
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"     // ovmf
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"    // ovmf: PK, KEK and db hold the snakeoil key
	signingKey   = "/usr/share/ovmf/PkKek-1-snakeoil.key"        // ovmf
	signingCert  = "/usr/share/ovmf/PkKek-1-snakeoil.pem"        // ovmf
	signingPass  = "snakeoil"                                    // as its documentation says
)

// buildUKIs makes one signed unified kernel image per command line, each with
// an EFI system partition to boot it from.
func (i *image) buildUKIs(ctx context.Context) error {
	key := filepath.Join(i.dir, "key.pem")
	defer os.Remove(key)
	if err := run(ctx, i.dir, "openssl", "rsa", "-passin", "pass:"+signingPass, "-in", signingKey, "-out", key); err != nil {
		return err
	}
	for name, cmdline := range i.recipe.Cmdline {
		if err := i.buildUKI(ctx, name, cmdline, key); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := i.buildESP(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// buildUKI joins kernel, command line and initial RAM disk behind systemd's
// stub (UAPI Group, Unified Kernel Image) and signs the whole.
func (i *image) buildUKI(ctx context.Context, name, cmdline, key string) error {
	unsigned := filepath.Join(i.dir, "unsigned.efi")
	defer os.Remove(unsigned)
	texts := map[string]string{
		".osrel":   "NAME=Plumbline-Lab\nID=plumbline-lab\nVERSION_ID=" + i.info.Release + "\n",
		".cmdline": cmdline,
		".uname":   i.info.Release,
	}
	base, err := sectionBase(efiStub)
	if err != nil {
		return err
	}
	offsets := map[string]uint64{".osrel": 0, ".cmdline": 0x10000, ".uname": 0x18000, ".linux": 0x1fe0000, ".initrd": 0x3fe0000}
	args := []string{}
	add := func(section, file string) {
		args = append(args, "--add-section", section+"="+file,
			"--change-section-vma", fmt.Sprintf("%s=%#x", section, base+offsets[section]))
	}
	for _, section := range []string{".osrel", ".cmdline", ".uname"} {
		file := filepath.Join(i.dir, "section"+section)
		if err := os.WriteFile(file, []byte(texts[section]), 0o644); err != nil {
			return err
		}
		defer os.Remove(file)
		add(section, file)
	}
	add(".linux", i.vmlinuz())
	add(".initrd", i.initrd())
	if err := run(ctx, i.dir, "objcopy", append(args, efiStub, unsigned)...); err != nil {
		return err
	}
	return run(ctx, i.dir, "sbsign", "--key", key, "--cert", signingCert, "--output", i.uki(name), unsigned)
}

// sectionBase is the address of the first section that joins the stub: the
// customary 0x20000, or behind the stub where that is longer. Addresses count
// from the image's base, which is 0 in systemd 252 and 0x14df90000 in 257, where
// firmware does not load an image with sections below it.
func sectionBase(stub string) (uint64, error) {
	f, err := pe.Open(stub)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", stub, err)
	}
	defer f.Close()
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return 0, fmt.Errorf("read %s: not an image for 64 bits", stub)
	}
	const step = 0x10000
	size := (uint64(header.SizeOfImage) + step - 1) / step * step
	return header.ImageBase + max(size, 0x20000), nil
}

// buildESP makes a disk that is one FAT file system holding the UKI where
// firmware looks for it.
func (i *image) buildESP(ctx context.Context, name string) error {
	info, err := os.Stat(i.uki(name))
	if err != nil {
		return err
	}
	esp := i.esp(name)
	if err := os.WriteFile(esp, nil, 0o644); err != nil {
		return err
	}
	const mib = 1 << 20
	if err := os.Truncate(esp, (info.Size()/mib+40)*mib); err != nil {
		return err
	}
	for _, step := range [][]string{
		{"mkfs.vfat", "--invariant", "-F", "32", "-n", "ESP", esp},
		{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", esp, i.uki(name), "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := run(ctx, i.dir, step[0], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}
