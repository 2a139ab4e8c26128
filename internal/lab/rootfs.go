package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// customize is mmdebstrap's last hook; $1 is the new root, $2 and on are ours
// through the environment. The bind mount hides what is mounted below the
// root, so that mke2fs sees the tree alone; propagation is left as it is because
// in a chroot, as in some build machines, it cannot be changed.
const customize = `set -e
root=$1
cp -r --no-preserve=ownership "$LAB_STAGING/." "$root/"
chroot "$root" depmod "$LAB_RELEASE"
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash alice
ln -s /bin/busybox "$root/usr/lib/plumbline-lab/init"
mkdir -p "$root/opt/plumbline"
echo plumbline-lab > "$root/etc/hostname"
echo "UUID=$LAB_UUID / ext4 defaults 0 1" > "$root/etc/fstab"
echo "nameserver 10.0.2.3" > "$root/etc/resolv.conf"
mkdir -p "$root/srv/samples"
echo attributes > "$root/srv/samples/xattr"
chroot "$root" setfattr -n user.colour -v blue /srv/samples/xattr
echo acl > "$root/srv/samples/acl"
chroot "$root" setfacl -m u:1000:rw /srv/samples/acl
rm -rf "$root/var/lib/apt/lists/"* "$root/var/cache/apt/"*
mkdir "$LAB_DIR/mount"
unshare --mount --propagation unchanged sh -ec '
	mount --bind "$1" "$LAB_DIR/mount"
	trap "umount \"\$LAB_DIR/mount\"" EXIT
	mke2fs -q -t ext4 -d "$LAB_DIR/mount" -U "$LAB_UUID" -L plumbline-root \
		-E "hash_seed=$LAB_UUID,lazy_itable_init=0" "$LAB_DIR/root.img" "${LAB_MIB}M"
' sh "$root"
rmdir "$LAB_DIR/mount"
`

// buildRoot makes the root file system out of Debian packages, their
// maintainer scripts run. As root it runs as root; otherwise it needs
// unprivileged user namespaces (and /etc/subuid).
func (i *image) buildRoot(ctx context.Context) error {
	staging := filepath.Join(i.dir, "staging")
	defer os.RemoveAll(staging)
	if err := i.stage(staging); err != nil {
		return err
	}
	sources, err := sourcesFor(i.recipe.Userland)
	if err != nil {
		return err
	}
	sourcesFile := filepath.Join(i.dir, "userland.sources")
	if err := os.WriteFile(sourcesFile, []byte(sources), 0o644); err != nil {
		return err
	}
	hook := filepath.Join(i.dir, "customize")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+customize), 0o755); err != nil {
		return err
	}
	mode := "root"
	if os.Geteuid() != 0 {
		mode = "unshare"
		// The mapped root must be able to write the image here.
		if err := os.Chmod(i.dir, 0o777); err != nil {
			return err
		}
		defer os.Chmod(i.dir, 0o755)
	}
	err = run(ctx, i.dir, "env",
		"LAB_STAGING="+staging, "LAB_DIR="+i.dir, "LAB_UUID="+rootUUID,
		"LAB_RELEASE="+i.info.Release, fmt.Sprintf("LAB_MIB=%d", i.recipe.RootMiB),
		"mmdebstrap", "--mode="+mode, "--variant=minbase", "--architectures=amd64",
		"--include="+strings.Join(i.recipe.Packages, ","),
		"--aptopt=Acquire::Retries \"3\"",
		"--format=null", "--customize-hook="+hook,
		i.recipe.Userland, "-", sourcesFile)
	return errors.Join(err, os.Remove(hook), os.Remove(sourcesFile))
}

// stage lays out our own few files and the modules the guest may load.
func (i *image) stage(staging string) error {
	tree, err := openModuleTree(i.modules())
	if err != nil {
		return err
	}
	wanted := append(append(append([]string{}, i.recipe.Initrd...), i.recipe.Boot...), i.recipe.Spare...)
	names, err := tree.closure(wanted)
	if err != nil {
		return err
	}
	target := filepath.Join(staging, "usr/lib/modules", i.info.Release)
	for _, name := range names {
		rel := tree.files[name]
		if err := copyFile(filepath.Join(tree.dir, rel), filepath.Join(target, rel), 0o644); err != nil {
			return err
		}
	}
	for _, list := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		if err := copyFile(filepath.Join(tree.dir, list), filepath.Join(target, list), 0o644); err != nil {
			return err
		}
	}
	boot := strings.Join(i.recipe.Boot, "\n") + "\n"
	own := filepath.Join(staging, "usr/lib/plumbline-lab")
	for _, dir := range []string{own, filepath.Join(staging, "srv")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(staging, "etc/acpi/PWRF"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(i.packages(), filepath.Join(staging, "srv", "packages")); err != nil {
		return err
	}
	for source, target := range map[string]string{
		"boot": "usr/lib/plumbline-lab/boot", "agent": "usr/lib/plumbline-lab/agent", "inittab": "etc/inittab",
		"power-button": "etc/acpi/PWRF/00000080", // where BusyBox's acpid looks for this event
	} {
		data, err := guestFiles.ReadFile("guest/" + source)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(staging, target), data, 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(own, "modules"), []byte(boot), 0o644)
}
