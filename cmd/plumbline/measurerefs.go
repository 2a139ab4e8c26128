package main

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// measureRefs are the reference values that flags of "measure" name.
type measureRefs struct {
	check.References
	image *kernel.Image // nil without --kernel
}

func measureReferences(flags *measureFlags) (*measureRefs, error) {
	refs := &measureRefs{}
	if flags.kernel != "" {
		image, err := kernel.OpenImage(flags.kernel, &kernel.ImageOptions{CacheDir: kernel.DefaultCacheDir()})
		if err != nil {
			return nil, measureFileError("--kernel", err)
		}
		refs.image = image
		refs.Images = refs
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

// measureFileError tells a wrong file from one that cannot be read.
func measureFileError(flag string, err error) error {
	for _, wrong := range []error{kernel.ErrFormat, kernel.ErrTooLarge, kernel.ErrNoModule} {
		if errors.Is(err, wrong) {
			return failHint(exitArgument, fmt.Errorf("%s: %w", flag, err), "--kernel takes a vmlinuz or vmlinux file, --modules a lib/modules/VERSION directory")
		}
	}
	return fail(exitIO, fmt.Errorf("%s: %w", flag, err))
}

// Image implements [check.ImageSource].
func (r *measureRefs) Image(buildID string) (*kernel.Image, error) {
	if r.image.BuildID != buildID {
		return nil, fmt.Errorf("%w: the target runs build %s, the file is build %s", kernel.ErrOtherBuild, buildID, r.image.BuildID)
	}
	return r.image, nil
}

// fits refuses an image of another build than the one that was observed.
func (r *measureRefs) fits(obs *measure.Observations) error {
	if r.image == nil || obs.Kernel.BuildID == "" {
		return nil
	}
	_, err := r.Image(obs.Kernel.BuildID)
	return err
}
