package check

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.pointers: every place in the kernel's own data that its file makes a
// pointer to code is, at run time, empty, what the file says, or the start of
// another function of approved text. That is all statically initialised
// operations: of protocols, terminals, file systems, binary formats, notifiers,
// security hooks, work items, timers, tracers.
//
// Proves: that none of them leads out of approved text or into the middle of a
// function, and that the kernel calls the hooks of its security modules
// (securityhooks.go). Trusts: linux.text for what the functions do. It cannot see objects
// that were allocated at run time, and an attacker can still exchange one proper
// function for another: how many differ from the file is in the report. It notes
// which of the programs that the kernel runs by itself were set (helperPaths).
const pointersName = "linux.pointers"

func pointersCheck() check {
	return check{name: pointersName, bulk: 1, collect: collectPointers, judge: judgePointers, memo: true}
}

// pointersData are the facts of linux.pointers.
type pointersData struct {
	Data      region `json:"data"`        // [_sdata, _edata)
	SetAtBoot region `json:"set_at_boot"` // [__start_ro_after_init, __end_ro_after_init)

	Hooks hooksData `json:"hooks"` // of security modules
}

func collectPointers(c *collector) (any, measure.Coverage, error) {
	var data pointersData
	var err error
	if data.Data, err = c.between("data", "_sdata", "_edata"); err != nil {
		return nil, measure.Coverage{}, err
	}
	if data.SetAtBoot, err = c.between("ro-after-init", "__start_ro_after_init", "__end_ro_after_init"); err != nil {
		return nil, measure.Coverage{}, err
	}
	data.Hooks = c.hooks()
	coverage := measure.Coverage{Bytes: int64(data.Data.pages()+data.SetAtBoot.pages()) * mem.PageSize}
	return data, coverage, nil
}

func judgePointers(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data pointersData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if j.image == nil {
		return j.imageErr
	}
	if j.code.err != nil || j.code.symbols == nil {
		return errNotObserved
	}
	slots := slotJudge{judging: j, out: out, check: pointersName}
	setAtBoot := &data.SetAtBoot // nil if it is another's
	for _, part := range []struct {
		r          *region
		start, end string
	}{{&data.Data, "_sdata", "_edata"}, {&data.SetAtBoot, "__start_ro_after_init", "__end_ro_after_init"}} {
		r := part.r
		if err := r.validate(); err != nil {
			return err
		}
		if elsewhere, err := slots.elsewhere(r, part.start, part.end); elsewhere || err != nil {
			if err != nil {
				return err
			}
			if r == setAtBoot {
				setAtBoot = nil
			}
			continue
		}
		if err := slots.region(r); err != nil {
			return err
		}
	}
	if out.Coverage.Objects = slots.seen; slots.seen == 0 {
		return errNotObserved
	}
	slots.helpers(&data.Data, &data.SetAtBoot)
	if err := slots.hooks(&data.Hooks, setAtBoot); err != nil {
		return err
	}
	if slots.unjudged != "" {
		return fmt.Errorf("pointers go into module %s, and there is no file of it to tell where its functions start", slots.unjudged)
	}
	if slots.other > 0 {
		out.Reason = fmt.Sprintf("%d pointers were set to other functions than the file has", slots.other)
	}
	return nil
}

// elsewhere reports, as a finding too, that a region is not what lies between two
// symbols of the image: the target's own symbols said where to read.
func (s *slotJudge) elsewhere(r *region, start, end string) (bool, error) {
	from, ok1 := s.code.symbols.Address(start)
	to, ok2 := s.code.symbols.Address(end)
	if !ok1 || !ok2 || to < from {
		return false, fmt.Errorf("%w: the image has no %s or %s", kernel.ErrNoSymbols, start, end)
	}
	first := from &^ (mem.PageSize - 1)
	pages := int((to - first + mem.PageSize - 1) / mem.PageSize)
	if uint64(r.Start) == first && r.pages() == pages {
		return false, nil
	}
	s.out.Findings = append(s.out.Findings, measure.Finding{
		Address: r.Start.String(), Symbol: start, Observed: fmt.Sprintf("%d pages at %v", r.pages(), r.Start),
		Expected:    fmt.Sprintf("%d pages at %v", pages, address(first)),
		Explanation: "the target's symbols place its data elsewhere than the image has it",
	})
	return true, nil
}

// slotJudge judges the slots of regions.
type slotJudge struct {
	*judging
	out         *measure.Check
	check       string // whose judgements of pages are remembered
	anchor      []byte // what they depend on, besides the page
	seen, other int64
	otherTables int64
	unjudged    string // a module that pointers go to and whose file is not known
}

// region judges the slots of the kernel's own data in a region.
func (s *slotJudge) region(r *region) error {
	return s.slots(r, s.image.CodeSlots(r.page(0), r.page(r.pages()), s.code.slide))
}

// slots judges slots of a region page by page. A page that was judged clean before,
// for this kernel at this place, needs no bytes.
func (s *slotJudge) slots(r *region, slots []kernel.PointerSlot) error {
	for from := r.page(0); len(slots) > 0; {
		i := int((slots[0].At - from) / mem.PageSize)
		here := 1
		for here < len(slots) && slots[here].At < r.page(i+1) {
			here++
		}
		if err := s.pageOf(r, i, slots[:here]); err != nil {
			return err
		}
		slots = slots[here:]
	}
	return nil
}

// pageOf judges the slots of one page.
func (s *slotJudge) pageOf(r *region, i int, slots []kernel.PointerSlot) error {
	digest, ok := r.digest(i)
	if !ok {
		return fmt.Errorf("the page at %v could not be read", r.page(i))
	}
	s.seen += int64(len(slots))
	key := s.pageKey(s.check, digest, append([]byte(r.page(i).String()), s.anchor...))
	if s.accepted(key) {
		return nil
	}
	page, ok := s.page(digest)
	if ok && s.clean(slots, page) {
		s.accept(key)
	}
	return nil
}

// clean judges the slots of one page and reports whether each is what the file
// says: only then does the judgement not depend on which modules are loaded.
func (s *slotJudge) clean(slots []kernel.PointerSlot, page []byte) bool {
	before := *s
	findings := len(s.out.Findings)
	for _, slot := range slots {
		into := int(slot.At & (mem.PageSize - 1))
		if into+8 <= len(page) { // none lies across two pages
			s.slot(slot, address(binary.LittleEndian.Uint64(page[into:])))
		}
	}
	return len(s.out.Findings) == findings && s.other == before.other && s.otherTables == before.otherTables && s.unjudged == before.unjudged
}

func (s *slotJudge) slot(slot kernel.PointerSlot, value address) {
	if slot.Fixed {
		s.fixed(slot, value)
		return
	}
	if value == 0 || value == address(slot.Target) {
		return
	}
	if slot.Table {
		s.table(slot, value)
		return
	}
	if module, ok := s.unknownModule(value); ok {
		s.unjudged = module
		return
	}
	p := pointer{Path: s.path(slot.At), At: address(slot.At), Value: value}
	problem := s.lands(p)
	if text, err := s.expected(); problem == "" || err == nil && text.env.Dispatches(uint64(p.At), uint64(value)) {
		s.other++
		return
	}
	expected := address(slot.Target).String()
	if name := s.function(slot.Target); name != "" {
		expected += " (" + name + ")"
	}
	s.out.Findings = append(s.out.Findings, s.finding(p, expected, "the pointer "+problem))
}

// unknownModule names the module in whose text an address lies if there is no
// file to tell where its functions start.
func (s *slotJudge) unknownModule(at address) (string, bool) {
	for i := range s.code.modules {
		m := &s.code.modules[i]
		if !m.text(at) {
			continue
		}
		text, err := s.expected()
		return m.Name, err != nil || text.modules[m.Name] == nil
	}
	return "", false
}

// function names a function that the files have at an address.
func (s *slotJudge) function(at mem.Virt) string {
	if !s.code.kernel.contains(address(at)) {
		if text, err := s.expected(); err == nil {
			name, _, _ := text.env.Lookup(uint64(at))
			return name
		}
	}
	name, _, _ := s.code.symbols.Lookup(uint64(at))
	return name
}

// path names a slot by the object that holds it.
func (s *slotJudge) path(at mem.Virt) string {
	if s.check == modulePointersName {
		if text, err := s.expected(); err == nil {
			return text.env.NameOfData(at)
		}
	}
	name, start, ok := s.code.symbols.Lookup(uint64(at))
	if !ok {
		return ""
	}
	return withOffset(name, uint64(at)-start)
}
