package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// modules.text: every byte of every loaded module's text is what its file says
// once linked to where the module is, or was changed by the kernel itself as in
// linux.text.
//
// Proves: that the code of the modules on the kernel's list is that of their
// files. Trusts: the files, and the list for which modules there are; code in a
// module that took itself off the list is not seen here. Where sections lie is
// the target's word, but code that is not where it says does not match.
const moduleTextName = "modules.text"

func moduleTextCheck() check {
	return check{name: moduleTextName, collect: collectModuleText, judge: judgeModuleText}
}

// maxModuleBytes bounds what the list of modules may make a scan read, in bytes.
const maxModuleBytes = 512 << 20

var errModuleBytes = fmt.Errorf("the modules on the list claim over %d bytes", maxModuleBytes)

// moduleTextData are the facts of modules.text.
type moduleTextData struct {
	Modules []region `json:"modules"` // the text of each, by the module's name
}

func collectModuleText(c *collector) (any, measure.Coverage, error) {
	var data moduleTextData
	var coverage measure.Coverage
	if c.modulesErr != nil {
		return nil, coverage, c.modulesErr
	}
	room := uint64(maxModuleBytes)
	for _, m := range c.modules {
		area, ok := m.Area(kernel.AreaText)
		if !ok {
			continue
		}
		if area.Size > room {
			return nil, coverage, errModuleBytes
		}
		room -= area.Size
		r, err := c.textRegion(m.Name, area.Start, area.End())
		if err != nil {
			return nil, coverage, err
		}
		data.Modules = append(data.Modules, r)
		got := r.coverage()
		coverage.Bytes += got.Bytes
		coverage.Objects++
	}
	coverage.Total = int64(len(c.modules))
	return data, coverage, nil
}

func judgeModuleText(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data moduleTextData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if j.refs.Modules == nil {
		return errNoModules
	}
	if err := j.listed(); err != nil {
		return err
	}
	if item := j.obs.Item(textName); item == nil || item.Data == nil {
		return errors.New("where static calls and probes go was not observed: linux.text was not")
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	regions := make(map[string]*region, len(data.Modules))
	for i := range data.Modules {
		regions[data.Modules[i].Name] = &data.Modules[i]
	}
	var problems []string
	for _, m := range j.code.modules {
		text, r := want.modules[m.Name], regions[m.Name]
		err := want.why[m.Name]
		switch {
		case err != nil:
		case r == nil:
			err = errors.New("its text was not read")
		default:
			err = j.explain(text, r, out)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", m.Name, err))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d of %d modules not measured: %s", len(problems), len(j.code.modules), strings.Join(problems, "; "))
	}
	return nil
}

// listed says why it is not known which modules there are.
func (j *judging) listed() error {
	if item := j.obs.Item(modulesName); item == nil || item.Data == nil {
		return errors.New("which modules there are was not observed: linux.modules was not")
	}
	return j.code.broken
}
