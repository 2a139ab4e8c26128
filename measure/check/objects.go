package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/graph"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.objects: each pointer to a function in the kernel's objects, static and
// allocated, as far as they are reached from its global variables through the
// types of its BTF, is empty or the start of a function of approved text: of the
// kernel, of a module, or of code that the kernel itself made and accounts for.
// How far that is, is measured: pointers in objects that were visited, of those
// in all objects that are known to live.
//
// Proves: that no pointer that was reached leads out of approved text or into
// the middle of a function, at the time it was read. Trusts: linux.text and
// modules.text for what the functions do; the target's types for where pointers
// are; the target's account of BPF programs and trampolines. Cannot see: objects
// that were not reached, members of unions that nothing tells apart, and a
// proper function exchanged for another. See docs/kernel-objects.md.
const objectsName = "linux.objects"

func objectsCheck() check {
	return check{name: objectsName, bulk: 50, collect: collectObjects, judge: judgeObjects, beside: true}
}

// objectsData are the facts of linux.objects.
type objectsData struct {
	Targets targetFacts `json:"targets"` // ascending
	// Programs are addresses of the code of BPF programs. That of classic BPF
	// has no symbol: it is somewhere in Packs.
	Programs []targetFact `json:"programs,omitempty"`
	Made     []madeFact   `json:"made,omitempty"` // code that the kernel made
	// Unread is why the accounts that Made is from could not be read to their end.
	Unread string  `json:"unread,omitempty"`
	Packs  []owner `json:"packs,omitempty"` // memory in which there is that of BPF programs
	// Tables are pointers to tables of functions that lead to what cannot be one:
	// text, no memory, or a process's.
	Tables  []targetFact `json:"tables,omitempty"`
	Caches  []cacheFact  `json:"caches,omitempty"`
	Untyped int64        `json:"untyped,omitempty"` // live objects of caches of no one type
	Filled  int64        `json:"filled"`            // pointers that are not null
	// Changed are pointers that looked wrong and were not there when what led to
	// them was read again; Freed those in objects that the allocator says are free.
	Changed int `json:"changed,omitempty"`
	Freed   int `json:"freed,omitempty"`
	// Going are those that all walks found, reached through modules that were being
	// loaded or unloaded: what these had may be freed.
	Going []targetFact `json:"going,omitempty"`
	// Loading are modules that pointers lead to and that the list, read before,
	// did not have.
	Loading   []string `json:"loading,omitempty"`
	NotWalked []string `json:"not_walked,omitempty"`
	// Unsettled are modules that came or went while their account of their
	// tracepoints was read; Changing those that were live all the time, and it was
	// another when it was read again.
	Unsettled []string       `json:"unsettled,omitempty"`
	Changing  []string       `json:"changing,omitempty"`
	Calls     traceCallFacts `json:"calls"`
	// Limited says that there was more than a walk looks at.
	Limited bool `json:"limited,omitempty"`
}

// targetFact is an address that pointers to functions have, with the first of
// them. There are some thousand in a scan, so its keys are short and Symbol is
// left out where Start says that a function of the target's own tables starts
// there.
type targetFact struct {
	Path   string  `json:"p"`
	At     address `json:"a"`
	Value  address `json:"v"`
	Start  bool    `json:"s,omitempty"`
	Symbol string  `json:"y,omitempty"`
	Count  int64   `json:"n"`

	// Low and High are, of several that lead into a module without text to judge, the
	// lowest and the highest address where one is stored.
	Low  address `json:"l,omitempty"`
	High address `json:"h,omitempty"`
}

// pointer is the fact in the form that judges of pointers take.
func (t *targetFact) pointer() pointer {
	return pointer{Path: t.Path, At: t.At, Value: t.Value, Symbol: t.Symbol}
}

// target makes a fact of what a walk found.
func (c *collector) target(p graph.Pointer) targetFact {
	t := targetFact{Path: p.Path, At: address(p.At), Value: address(p.Value), Count: p.Count, Start: c.startsFunction(mem.Virt(p.Value))}
	if !t.Start {
		t.Symbol = c.symbol(mem.Virt(p.Value))
	}
	if p.Count > 1 && slices.ContainsFunc(c.modules, func(m kernel.LoadedModule) bool { return c.dormant[m.At] && m.Holds(mem.Virt(p.Value)) }) {
		t.Low, t.High = address(p.Low), address(p.High)
	}
	return t
}

// startsFunction reports whether the target's own tables have a symbol at an
// address in the text of the kernel or a module.
func (c *collector) startsFunction(at mem.Virt) bool {
	if name, offset, ok := c.profile.Lookup(at); ok {
		start, _ := c.profile.Symbol("_stext")
		end, _ := c.profile.Symbol("_etext")
		return name != "" && offset == 0 && at >= start && at < end
	}
	for i := range c.modules {
		for _, a := range c.modules[i].Areas {
			if a.Kind == kernel.AreaText && a.Contains(at) {
				return isStart(c.symbol(at))
			}
		}
	}
	return false
}

// madeFact is code that the kernel made at run time, by its own account.
type madeFact struct {
	Kind  string  `json:"kind"`
	Start address `json:"start"`
}

// cacheFact is a cache of the slab allocator whose objects have one type.
type cacheFact struct {
	Name    string `json:"name"`
	Reached int64  `json:"reached"`
	Live    int64  `json:"live"`
	Fields  int64  `json:"fields"` // pointers in each
}

func judgeObjects(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data objectsData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if j.code.err != nil {
		return j.code.err
	}
	if len(data.Targets) == 0 {
		return errNotObserved
	}
	made := make(map[address]bool, len(data.Made))
	for _, m := range data.Made {
		made[m.Start] = true
	}
	asleep := ""
	for _, t := range data.Targets {
		if name := j.leadsAsleep(&t); name != "" {
			asleep = name
			continue
		}
		if made[t.Value] && !j.code.kernel.contains(t.Value) {
			continue
		}
		problem := j.landsAt(&t)
		if problem == "" {
			continue
		}
		if j.code.broken != nil && !j.code.kernel.contains(t.Value) {
			return j.code.broken // it may be a module that the list does not show
		}
		out.Findings = append(out.Findings, j.finding(t.pointer(), "the start of a function", "the pointer "+problem+t.others()))
	}
	for _, t := range data.Tables {
		out.Findings = append(out.Findings, j.table(&t))
	}
	for _, p := range data.Programs {
		if problem := j.program(&data, made, p); problem != "" {
			out.Findings = append(out.Findings, j.finding(p.pointer(), "the code of a BPF program", problem))
		}
	}
	unsettled := slices.Concat(data.Unsettled, data.Calls.Gone)
	points, err := j.moduleTracepoints(unsettled, out)
	if err := errors.Join(err, j.traceCalls(&data.Calls, unsettled, out)); err != nil {
		return err
	}
	if data.Limited {
		return errors.New("there are more objects than a walk looks at: " + strings.Join(data.NotWalked, ", "))
	}
	if n := len(data.Going); n > 0 {
		return fmt.Errorf("%d pointers that look wrong are reached through modules that are not live, such as %s at %v", n, data.Going[0].Path, data.Going[0].At)
	}
	if asleep != "" {
		return fmt.Errorf("pointers lead into module %s, of which nothing is compared as it was not executable when the scan began", asleep)
	}
	if data.Unread != "" {
		return errors.New("the accounts of code that the kernel made could not be read: " + data.Unread)
	}
	if len(data.Changing) > 0 {
		return errors.New("how many tracepoints they have changes while it is looked at, in modules " + strings.Join(data.Changing, ", "))
	}
	out.Reason = data.remark(out.Coverage, remarks(points, j.trusts()))
	return nil
}

// leadsAsleep names the module without text to judge that pointers lead into, if they
// are not all of the module's own, such as to the function that ends it, or to one that
// a tracepoint and its static call have.
func (j *judging) leadsAsleep(t *targetFact) string {
	low, high := t.At, t.At
	if t.Count > 1 {
		low, high = t.Low, t.High
	}
	for i := range j.code.modules {
		m := &j.code.modules[i]
		own := slices.ContainsFunc(m.Areas, func(a areaFact) bool { return low >= a.Start && high >= low && uint64(high-a.Start) < a.Size })
		if m.asleep() && m.text(t.Value) && !own {
			return m.Name
		}
	}
	return ""
}

// others counts the pointers beside the first.
func (t *targetFact) others() string {
	if t.Count < 2 {
		return ""
	}
	return fmt.Sprintf("; %d other pointers have the same value", t.Count-1)
}

// table is the finding of a pointer to a table of functions that leads to none.
func (j *judging) table(t *targetFact) measure.Finding {
	problem := "the pointer to a table of functions leads to no memory of the kernel"
	inModule := func(m moduleFact) bool { return m.text(t.Value) }
	if j.code.kernel.contains(t.Value) || slices.ContainsFunc(j.code.modules, inModule) {
		problem = "the pointer to a table of functions leads into text"
	}
	return j.finding(t.pointer(), "a table of functions", problem+t.others())
}

// landsAt says what is wrong with where a pointer leads, by the files where there
// are any, else by the target's own word.
func (j *judging) landsAt(t *targetFact) string {
	problem := j.lands(t.pointer())
	if problem == "" || !t.Start {
		return problem
	}
	if j.code.kernel.contains(t.Value) {
		if j.code.symbols == nil {
			return ""
		}
		return problem
	}
	for i := range j.code.modules {
		if m := &j.code.modules[i]; m.text(t.Value) {
			if text, err := j.expected(); err != nil || text.modules[m.Name] == nil {
				return ""
			}
		}
	}
	return problem
}

// program says what is wrong with the code of a BPF program: it has to be a
// function of the kernel (an interpreter), code that the kernel keeps a symbol
// of, or somewhere in the memory where it makes such code.
func (j *judging) program(data *objectsData, made map[address]bool, p targetFact) string {
	problem := j.landsAt(&p)
	if problem == "" || made[p.Value] {
		return ""
	}
	if inPacks(data.Packs, p.Value) {
		return ""
	}
	return "the code of a BPF program " + problem + ", nor is it where the kernel makes such code"
}

// remark says how much was reached and what was not walked.
func (d *objectsData) remark(c measure.Coverage, trusts string) string {
	parts := []string{fmt.Sprintf("reached %d of %d pointers to functions and their tables in objects known to live, %d of them set, to %d functions; %d live objects of general caches count only where reached",
		c.Objects, c.Total, d.Filled, len(d.Targets), d.Untyped)}
	if d.Changed > 0 {
		parts = append(parts, fmt.Sprintf("%d changed while they were read", d.Changed))
	}
	if d.Freed > 0 {
		parts = append(parts, fmt.Sprintf("%d that look wrong are in objects that the allocator says are free", d.Freed))
	}
	if len(d.Loading) > 0 {
		parts = append(parts, "not judged, as it was loaded during the scan: "+strings.Join(d.Loading, ", "))
	}
	if len(d.NotWalked) > 0 {
		parts = append(parts, "not walked: "+strings.Join(d.NotWalked, ", "))
	}
	if trusts != "" {
		parts = append(parts, trusts)
	}
	return strings.Join(parts, "; ")
}
