package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// modules.rodata: the read-only data of every loaded module is what its file
// says once linked to where the module is.
//
// Proves: that constant tables of modules, such as the operations through which
// KVM handles exits, are those of the files. Trusts: the files, and the list for
// which modules there are. It says nothing of data that is set at load time, nor
// of tables that the loader changes (exceptions, unwinding, traced functions,
// alternatives).
const moduleRodataName = "modules.rodata"

func moduleRodataCheck() check {
	return check{name: moduleRodataName, bulk: 1, collect: collectModuleRodata, judge: judgeModuleRodata, memo: true}
}

func collectModuleRodata(c *collector) (any, measure.Coverage, error) {
	var data moduleTextData
	coverage := measure.Coverage{Total: int64(len(c.modules))}
	if c.modulesErr != nil {
		return nil, coverage, c.modulesErr
	}
	room := uint64(maxModuleBytes)
	for _, m := range c.modules {
		area, ok := m.Area(kernel.AreaRodata)
		if !ok || area.Size == 0 {
			continue
		}
		if area.Size > room {
			return nil, coverage, errModuleBytes
		}
		room -= area.Size
		r, err := c.region(m.Name, area.Start, area.End())
		if err != nil {
			return nil, coverage, err
		}
		data.Modules = append(data.Modules, r)
		coverage.Objects++
	}
	var err error
	data.Gone, err = c.goneModules()
	return data, coverage, err
}

func judgeModuleRodata(j *judging, raw json.RawMessage, out *measure.Check) error {
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
		if slices.Contains(data.Gone, m.Name) || m.asleep() {
			continue // told by modules.text
		}
		err := want.why[m.Name]
		if err == nil {
			found := len(out.Findings)
			err = j.compareModuleRodata(want.modules[m.Name], &m, regions[m.Name], out)
			if unmade := m.takeUnmade(out, found); err == nil {
				err = unmade
			}
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

func (j *judging) compareModuleRodata(text *kernel.Text, m *moduleFact, r *region, out *measure.Check) error {
	sections, err := text.Rodata()
	if err != nil || len(sections) == 0 {
		return err
	}
	for _, s := range sections {
		out.Coverage.Bytes += int64(len(s.Want))
	}
	if r == nil {
		return errors.New("its read-only data was not read")
	}
	if err := r.validate(); err != nil {
		return err
	}
	places, err := json.Marshal(m)
	if err != nil {
		return err
	}
	layout := j.layout()
	key := j.pageKey(moduleRodataName, DigestOf(r.Digests), append(places, layout[:]...))
	if j.accepted(key) {
		return nil
	}
	clean := true
	for _, s := range sections {
		seen, ok := j.read(r, s.At, len(s.Want))
		if !ok {
			return fmt.Errorf("%s at %v could not be read", s.Name, s.At)
		}
		if seen == nil { // its bytes are asked for
			clean = false
			continue
		}
		differences := s.Compare(seen)
		out.Findings = append(out.Findings, j.differences(differences)...)
		clean = clean && len(differences) == 0
	}
	if clean {
		j.accept(key)
	}
	return nil
}
