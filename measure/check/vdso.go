package check

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.vdso: the code that the kernel maps into every process is that of the
// image, with the alternatives applied that the image's own table allows.
//
// Proves: that processes do not run an attacker's code when they ask for the
// time. Trusts: the image, and each process's page tables for mapping these
// pages and no others.
const vdsoName = "linux.vdso"

func vdsoCheck() check {
	return check{name: vdsoName, bulk: 1, collect: collectVDSO, judge: judgeVDSO, memo: true}
}

// maxVDSO bounds an image, in bytes.
const maxVDSO = 1 << 20

func collectVDSO(c *collector) (any, measure.Coverage, error) {
	var regions []region
	var coverage measure.Coverage
	for _, name := range kernel.VDSONames() {
		at, ok := c.profile.Symbol(name)
		if !ok {
			continue
		}
		words, err := c.words(at, 2) // struct vdso_image: data, size
		if err != nil {
			return nil, coverage, fmt.Errorf("%s: %w", name, err)
		}
		r, err := c.region(name, mem.Virt(words[0]), mem.Virt(words[0]+min(words[1], maxVDSO)))
		if err != nil {
			return nil, coverage, err
		}
		regions = append(regions, r)
		coverage.Bytes += r.coverage().Bytes
		coverage.Objects++
	}
	return regions, coverage, nil
}

func judgeVDSO(j *judging, raw json.RawMessage, out *measure.Check) error {
	var regions []region
	if err := decode(raw, &regions); err != nil {
		return err
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	images := want.env.VDSOs()
	if len(images) == 0 {
		return errors.New("the image has no vDSO of a known layout")
	}
	byName := make(map[string]*region)
	for i := range regions {
		byName[regions[i].Name] = &regions[i]
	}
	for _, image := range images {
		r := byName[image.Name]
		if r == nil {
			return fmt.Errorf("%s was not read", image.Name)
		}
		if err := j.explain(image.Text, r, out, nil); err != nil {
			return fmt.Errorf("%s: %w", image.Name, err)
		}
	}
	return nil
}
