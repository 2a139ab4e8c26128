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

// modules.pointers: every place in the writable data of a loaded module that its
// file makes a pointer to a function is, at run time, empty, what the file says, or
// the start of another function of approved text: drivers, file systems, protocols,
// operations, notifiers, work and timers that are static variables of modules. Every
// place that the file makes a pointer to a constant table of functions is empty, what
// the file says, or leads into other constant data or to another static table.
//
// Proves: that none of the pointers to functions leads out of approved text or into the
// middle of a function, and none of those to tables out of constant data and what is
// before a pointer to a function in static data. Trusts: the files; the list for which
// modules there are; modules.text for what the functions do, modules.rodata and
// linux.rodata for the tables. It cannot see pointers that the file does not have,
// nor one proper function exchanged for another, or a table for any place in constant
// data: how many differ is reported.
const modulePointersName = "modules.pointers"

func modulePointersCheck() check {
	return check{name: modulePointersName, bulk: 1, collect: collectModulePointers, judge: judgeModulePointers, memo: true}
}

// modulePointersData are the facts of modules.pointers.
type modulePointersData struct {
	Data []region `json:"data"` // what is written, and what was until the module was loaded, by the module's name
	Gone []string `json:"gone,omitempty"`
}

func collectModulePointers(c *collector) (any, measure.Coverage, error) {
	var data modulePointersData
	coverage := measure.Coverage{Total: int64(len(c.modules))}
	if c.modulesErr != nil {
		return nil, coverage, c.modulesErr
	}
	room := uint64(maxModuleBytes)
	for _, m := range c.modules {
		for _, area := range m.Areas {
			if area.Kind != kernel.AreaData && area.Kind != kernel.AreaROAfterInit || area.Size == 0 {
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
			data.Data = append(data.Data, r)
			coverage.Bytes += r.coverage().Bytes
		}
	}
	var err error
	data.Gone, err = c.goneModules()
	return data, coverage, err
}

func judgeModulePointers(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data modulePointersData
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
	if j.code.err != nil || j.code.symbols == nil {
		return errNotObserved
	}
	regions := make(map[string][]*region)
	for i := range data.Data {
		r := &data.Data[i]
		if err := r.validate(); err != nil {
			return err
		}
		regions[r.Name] = append(regions[r.Name], r)
	}
	slots := slotJudge{judging: j, out: out, check: modulePointersName}
	var problems []string
	for i := range j.code.modules {
		m := &j.code.modules[i]
		if slices.Contains(data.Gone, m.Name) || m.asleep() {
			continue // told by modules.text
		}
		err := want.why[m.Name]
		if err == nil {
			err = slots.module(want.modules[m.Name], m, regions[m.Name])
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", m.Name, err))
		}
	}
	out.Coverage.Objects, out.Coverage.Total = slots.seen, slots.seen
	if slots.unjudged != "" {
		problems = append(problems, "pointers go into module "+slots.unjudged+", and there is no file of it to tell where its functions start")
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d of %d modules not measured: %s", len(problems), len(j.code.modules), strings.Join(problems, "; "))
	}
	if slots.other > 0 || slots.otherTables > 0 {
		out.Reason = fmt.Sprintf("%d pointers were set to other functions than the files have, %d to other tables", slots.other, slots.otherTables)
	}
	return nil
}

// table judges a place that is to lead to a constant table of functions, and does not
// to what the file has there: it may lead to another that a file has.
func (s *slotJudge) table(slot kernel.PointerSlot, value address) {
	text, err := s.expected()
	if err == nil && text.env.Table(uint64(value)) {
		s.otherTables++
		return
	}
	for i := range s.code.modules {
		m := &s.code.modules[i]
		if m.holds(value) && (err != nil || text.modules[m.Name] == nil) {
			s.unjudged = m.Name
			return
		}
	}
	expected := address(slot.Target).String()
	if err == nil {
		if name, offset, ok := text.env.Lookup(uint64(slot.Target)); ok {
			expected += " (" + withOffset(name, offset) + ")"
		}
	}
	s.out.Findings = append(s.out.Findings, s.finding(pointer{Path: s.path(slot.At), At: address(slot.At), Value: value}, expected,
		"the pointer leads to no table of functions that the kernel or a module has by its file, where the module's file has a constant one"))
}

// module judges the slots of one module.
func (s *slotJudge) module(text *kernel.Text, m *moduleFact, regions []*region) error {
	slots, err := text.PointerSlots()
	if err != nil {
		return err
	}
	places, err := json.Marshal(m)
	if err != nil {
		return err
	}
	layout := s.layout()
	s.anchor = append(append([]byte("with tables "), places...), layout[:]...)
	found := len(s.out.Findings)
	judged := 0
	for _, r := range regions {
		here := within(slots, r)
		if err := s.slots(r, here); err != nil {
			return err
		}
		judged += len(here)
	}
	if judged != len(slots) {
		return errors.New("its data was not read")
	}
	if !m.Live && len(s.out.Findings) > found {
		s.out.Findings = s.out.Findings[:found]
		return errors.New(m.doing()) // its data may not be what it is to be
	}
	return nil
}

// within returns the slots that lie in a region.
func within(slots []kernel.PointerSlot, r *region) []kernel.PointerSlot {
	first := slices.IndexFunc(slots, func(c kernel.PointerSlot) bool { return c.At >= r.page(0) })
	if first < 0 {
		return nil
	}
	slots = slots[first:]
	if end := slices.IndexFunc(slots, func(c kernel.PointerSlot) bool { return c.At >= r.page(r.pages()) }); end >= 0 {
		slots = slots[:end]
	}
	return slots
}
