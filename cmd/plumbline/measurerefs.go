package main

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
)

// measureRefs are the reference values that flags of "measure" name.
type measureRefs struct {
	check.References
	image *kernel.Image // nil without --kernel, or if that is Xen's
	xen   *xen.Image    // nil unless --kernel is Xen's
}

func measureReferences(flags *measureFlags) (*measureRefs, error) {
	refs := &measureRefs{}
	if flags.kernel != "" {
		if err := refs.open(flags.kernel); err != nil {
			return nil, measureFileError("--kernel", err)
		}
	}
	if flags.modules != "" {
		modules, err := kernel.OpenModules(flags.modules)
		if err != nil {
			return nil, measureFileError("--modules", err)
		}
		refs.Modules = modules
	}
	if flags.reference != "" {
		reference, err := readReference(flags.reference)
		if err != nil {
			return nil, err
		}
		refs.Portable = []*check.Reference{reference}
	}
	return refs, nil
}

// open reads the file of --kernel, which is Xen's or Linux' by its content.
func (r *measureRefs) open(path string) (err error) {
	if r.xen, err = xen.OpenImage(path); !errors.Is(err, xen.ErrNotXen) {
		r.References.Xen = r
		return err
	}
	if r.image, err = kernel.OpenImage(path, &kernel.ImageOptions{CacheDir: kernel.DefaultCacheDir()}); err != nil {
		return err
	}
	r.Images = r
	return nil
}

// measureFileError tells a wrong file from one that cannot be read.
func measureFileError(flag string, err error) error {
	for _, wrong := range []error{kernel.ErrFormat, kernel.ErrTooLarge, kernel.ErrNoModule, xen.ErrLayout} {
		if errors.Is(err, wrong) {
			return failHint(exitArgument, fmt.Errorf("%s: %w", flag, err), "--kernel takes a vmlinuz, a vmlinux or Xen's file, --modules a lib/modules/VERSION directory")
		}
	}
	return fail(exitIO, fmt.Errorf("%s: %w", flag, err))
}

// Image implements [check.ImageSource].
func (r *measureRefs) Image(buildID string) (*kernel.Image, error) {
	return r.image, sameBuild(buildID, r.image.BuildID)
}

// Xen implements [check.XenSource].
func (r *measureRefs) Xen(buildID string) (*xen.Image, error) {
	return r.xen, sameBuild(buildID, r.xen.BuildID)
}

func sameBuild(target, file string) error {
	if target != file {
		return fmt.Errorf("%w: the target runs build %s, the file is build %s", kernel.ErrOtherBuild, target, file)
	}
	return nil
}

// fits refuses an image of another build, or of another kind of kernel, than
// what was observed.
func (r *measureRefs) fits(obs *measure.Observations) error {
	if obs.Kernel.BuildID == "" {
		return nil
	}
	switch isXen := obs.Kernel.Kind == measure.Xen; {
	case r.image != nil && isXen:
		return fmt.Errorf("%w: the target runs Xen, the file is a Linux kernel", kernel.ErrOtherBuild)
	case r.xen != nil && !isXen:
		return fmt.Errorf("%w: the target runs Linux, the file is Xen's", kernel.ErrOtherBuild)
	case r.image != nil:
		return sameBuild(obs.Kernel.BuildID, r.image.BuildID)
	case r.xen != nil:
		return sameBuild(obs.Kernel.BuildID, r.xen.BuildID)
	}
	return nil
}
