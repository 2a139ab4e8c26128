package main

import (
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
	return &measureRefs{}, nil
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
