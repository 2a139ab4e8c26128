package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// image is what machines of one recipe share, in a directory of the cache.
type image struct {
	dir    string
	recipe recipe
	info   imageInfo
}

// imageInfo is image.json, written last.
type imageInfo struct {
	Package string `json:"package"` // the kernel's Debian package
	Release string `json:"release"` // as uname -r in the guest
}

func (i *image) vmlinuz() string { return filepath.Join(i.dir, "kernel", "vmlinuz") }
func (i *image) modules() string {
	return filepath.Join(i.dir, "kernel", "lib", "modules", i.info.Release)
}
func (i *image) packages() string       { return filepath.Join(i.dir, "packages") }
func (i *image) initrd() string         { return filepath.Join(i.dir, "initrd") }
func (i *image) root() string           { return filepath.Join(i.dir, "root.img") }
func (i *image) uki(name string) string { return filepath.Join(i.dir, "uki-"+name+".efi") }
func (i *image) esp(name string) string { return filepath.Join(i.dir, "esp-"+name+".img") }

// openImage returns the image of a recipe, built if the cache has none.
func openImage(ctx context.Context, cache string, r recipe, log io.Writer) (*image, error) {
	dir, err := cached(ctx, cache, filepath.Join("image", r.key()), func(dir string) error {
		fmt.Fprintf(log, "building the image of a %s machine; this is done once\n", r.Kernel.Suite)
		return buildImage(ctx, dir, r, log)
	})
	if err != nil {
		return nil, fmt.Errorf("build the machine's image: %w", err)
	}
	img := &image{dir: dir, recipe: r}
	data, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if err != nil {
		return nil, err
	}
	return img, json.Unmarshal(data, &img.info)
}

func buildImage(ctx context.Context, dir string, r recipe, log io.Writer) error {
	img := &image{dir: dir, recipe: r}
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"kernel package", img.fetchKernel},
		{"BusyBox and packages", img.fetchPackages},
		{"initial RAM disk", img.buildInitrd},
		{"Debian root file system", img.buildRoot},
		{"signed unified kernel images", img.buildUKIs},
	}
	for _, step := range steps {
		fmt.Fprintf(log, "  %s\n", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	data, err := json.Marshal(img.info)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "image.json"), data, 0o644)
}

// fetchKernel unpacks the kernel package into kernel/: vmlinuz and
// lib/modules/RELEASE, which users of the lab see too.
func (i *image) fetchKernel(ctx context.Context) error {
	apt, err := newApt(ctx, filepath.Join(i.dir, "apt"), i.recipe.Kernel.Suite)
	if err != nil {
		return err
	}
	defer os.RemoveAll(apt.dir)
	packages, err := apt.kernelPackages(ctx, i.recipe.Kernel.metapackage())
	if err != nil {
		return err
	}
	i.info.Package = packages[0]
	i.info.Release = strings.TrimPrefix(i.info.Package, "linux-image-")
	unpacked := filepath.Join(i.dir, "unpacked")
	if err := apt.extract(ctx, unpacked, packages...); err != nil {
		return err
	}
	defer os.RemoveAll(unpacked)
	kernel := filepath.Join(i.dir, "kernel")
	if err := os.MkdirAll(filepath.Join(kernel, "lib", "modules"), 0o755); err != nil {
		return err
	}
	// Since trixie modules are below /usr, since 7.x vmlinuz is with them.
	modules := filepath.Join("lib", "modules", i.info.Release)
	if err := renameFirst(i.modules(), filepath.Join(unpacked, modules), filepath.Join(unpacked, "usr", modules)); err != nil {
		return err
	}
	return renameFirst(i.vmlinuz(), filepath.Join(unpacked, "boot", "vmlinuz-"+i.info.Release), filepath.Join(i.modules(), "vmlinuz"))
}

// renameFirst gives the first of some files that exists a new name.
func renameFirst(to string, from ...string) error {
	for _, path := range from {
		err := os.Rename(path, to)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("the packages hold none of %v", from)
}

// fetchPackages brings the one program of the initial RAM disk and the packages
// that tests install in the guest, from the userland's suite whatever the
// kernel's is.
func (i *image) fetchPackages(ctx context.Context) error {
	apt, err := newApt(ctx, filepath.Join(i.dir, "apt"), i.recipe.Userland)
	if err != nil {
		return err
	}
	defer os.RemoveAll(apt.dir)
	if err := apt.download(ctx, i.packages(), i.recipe.Spares...); err != nil {
		return err
	}
	unpacked := filepath.Join(i.dir, "unpacked")
	if err := apt.extract(ctx, unpacked, "busybox-static"); err != nil {
		return err
	}
	defer os.RemoveAll(unpacked)
	return os.Rename(filepath.Join(unpacked, "bin", "busybox"), filepath.Join(i.dir, "busybox"))
}

// buildInitrd writes an uncompressed archive of BusyBox, the modules of the
// root disk in loading order, and init. It is small on purpose: firmware under
// TCG reads and hashes it slowly.
func (i *image) buildInitrd(context.Context) error {
	tree, err := openModuleTree(i.modules())
	if err != nil {
		return err
	}
	order, err := tree.closure(i.recipe.Initrd)
	if err != nil {
		return err
	}
	initScript, err := guestFiles.ReadFile("guest/initrd-init")
	if err != nil {
		return err
	}
	return i.writeInitrd(i.initrd(), initScript, tree, order)
}

// writeInitrd writes an archive of BusyBox, modules in loading order, and init.
func (i *image) writeInitrd(to string, initScript []byte, tree *moduleTree, order []string) error {
	busybox, err := os.ReadFile(filepath.Join(i.dir, "busybox"))
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	cpio := &cpioWriter{w: &archive}
	for _, name := range []string{"bin", "dev", "proc", "sys", "root", "modules"} {
		cpio.dir(name)
	}
	cpio.file("init", 0o755, initScript)
	cpio.file("bin/busybox", 0o755, busybox)
	var list strings.Builder
	for _, name := range order {
		data, err := tree.read(name)
		if err != nil {
			return err
		}
		cpio.file("modules/"+name+".ko", 0o644, data)
		fmt.Fprintf(&list, "%s.ko\n", name)
	}
	cpio.file("modules/order", 0o644, []byte(list.String()))
	if err := cpio.close(); err != nil {
		return err
	}
	return os.WriteFile(to, archive.Bytes(), 0o644)
}
