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
			return nil, imageError(err)
		}
		refs.image, refs.Images = image, refs
	}
	if flags.modules != "" {
		modules, err := kernel.OpenModules(flags.modules)
		if err != nil {
			return nil, imageError(err)
		}
		refs.Modules = modules
	}
	return refs, nil
}

// imageError gives an error of reading reference values its exit code.
func imageError(err error) error {
	if errors.Is(err, kernel.ErrFormat) || errors.Is(err, kernel.ErrTooLarge) || errors.Is(err, kernel.ErrNoModule) {
		return failHint(exitData, err, "--kernel takes a vmlinuz, --modules a lib/modules/VERSION directory")
	}
	return fail(exitIO, err)
}

// Image implements [check.ImageSource].
func (r *measureRefs) Image(buildID string) (*kernel.Image, error) {
	if r.image.BuildID != buildID {
		return nil, fmt.Errorf("%w: the target runs build %s, the image is %s", kernel.ErrOtherBuild, buildID, r.image.BuildID)
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
