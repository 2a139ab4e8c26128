package check

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/graph"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A pointer that looks wrong is one if every walk finds it at the same place with
// the same value, and so many of so many at most by a way that still leads there
// when it is read again: the target runs while it is read, and may free and reuse
// what is being read. A place that several ways lead to is found by another one
// when the first was just given up.
//
// Memory that was freed and reused may look like hundreds of thousands of objects,
// for as long as one walk: the first walks end where they come to a limit, as long
// as enough are left to confirm what a target has that is over the limits.
const (
	objectConfirmations = 3
	objectReadings      = 5
)

func collectObjects(c *collector) (any, measure.Coverage, error) {
	var data objectsData
	o := objectsReader{collector: c, data: &data, patience: modulePatience}
	for left := objectReadings - 1; ; left-- {
		if err := o.read(left); err != nil {
			return nil, measure.Coverage{}, err
		}
		if o.settled(left) {
			break
		}
		if len(o.undecided()) > 0 {
			o.patience = o.await(o.patience, o.allLive)
		}
	}
	o.facts()
	return data, measure.Coverage{Bytes: o.last.Pages * mem.PageSize, Objects: o.last.Reached, Total: o.last.Known}, nil
}

// allLive reports whether no module is being loaded or unloaded now.
func (c *collector) allLive() bool {
	list, err := c.profile.Modules()
	return err == nil && !slices.ContainsFunc(list, unsettled)
}

// objectsReader walks until it is clear which pointers are wrong.
type objectsReader struct {
	*collector
	data  *objectsData
	among map[graph.Place]bool // that all walks found
	tally map[graph.Place]*tallied
	going map[graph.Place]graph.Suspect // that a walk reached through a module that is not live

	patience time.Duration // left for waiting for such modules

	last           *graph.Result
	modulesThen    []kernel.LoadedModule // when that began
	wrong, loading map[uint64]bool       // of last: values that look wrong; in modules loaded since
	packs          error                 // why Packs are not known
}

type tallied struct {
	graph.Suspect
	walks int
}

// read walks once; so many walks are left at most.
func (o *objectsReader) read(left int) error {
	modules, err := o.profile.Modules()
	if err != nil {
		modules = o.modules
	}
	o.modulesThen = modules
	o.last, err = graph.Walk(o.ctx, o.profile, modules, &graph.Suspicion{Among: o.among, Brief: brief(left), Breathe: o.breathe,
		Wrong: func(functions, programs []graph.Pointer) map[uint64]bool {
			o.wrong = o.look(modules, functions, programs)
			return o.wrong
		}})
	if err != nil {
		return err
	}
	o.count(left)
	return nil
}

// brief reports whether a walk ends where it comes to a limit: there are enough
// without it.
func brief(left int) bool { return left >= objectConfirmations }

// count notes what the last walk found.
func (o *objectsReader) count(left int) {
	if o.last.Limited && brief(left) {
		return
	}
	found := make(map[graph.Place]bool)
	for _, place := range o.last.Odd {
		found[place] = o.among == nil || o.among[place]
	}
	if o.among == nil {
		o.data.Changed, o.tally, o.going = len(found), make(map[graph.Place]*tallied), make(map[graph.Place]graph.Suspect)
	}
	maps.DeleteFunc(found, func(_ graph.Place, again bool) bool { return !again })
	o.among = found
	for _, s := range o.last.Suspects {
		if o.tally[s.Place] == nil {
			o.tally[s.Place] = &tallied{Suspect: s}
		}
		o.tally[s.Place].walks++
	}
	for _, s := range o.last.Going {
		o.going[s.Place] = s
	}
	o.data.Freed = max(o.data.Freed, int(o.last.Freed))
}

// settled reports whether more walks, so many at most, can change which suspects
// are confirmed.
func (o *objectsReader) settled(left int) bool {
	if o.last.Limited && left >= objectConfirmations-1 {
		return false // what was freed and reused may look like a great many objects
	}
	for place := range o.among {
		if walks := o.walks(place); walks < objectConfirmations && walks+left >= objectConfirmations {
			return false
		}
	}
	return left == 0 || len(o.undecided()) == 0
}

// walks is how many found a place by a way that held.
func (o *objectsReader) walks(place graph.Place) int {
	if t := o.tally[place]; t != nil {
		return t.walks
	}
	return 0
}

// undecided returns the places that all walks found, and too few but through a
// module that is not live.
func (o *objectsReader) undecided() []graph.Suspect {
	var out []graph.Suspect
	for place, s := range o.going {
		if o.among[place] && o.walks(place) < objectConfirmations {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b graph.Suspect) int { return cmp.Compare(a.At, b.At) })
	return out
}

// look says which values look wrong by the target's own tables, and names
// modules that were loaded meanwhile.
func (o *objectsReader) look(modules []kernel.LoadedModule, functions, programs []graph.Pointer) map[uint64]bool {
	// A module that was being unloaded may be back, where it was.
	maps.DeleteFunc(o.symbols, func(_ mem.Virt, s symbolsOrError) bool { return s.err != nil })
	var unread error
	o.data.Made, unread = o.madeCode()
	o.data.Unread, o.data.Loading, o.loading = "", nil, make(map[uint64]bool)
	if unread != nil {
		o.data.Unread = unread.Error()
	}
	o.data.Packs, o.packs = o.bpfPacks()
	known := make(map[uint64]bool, len(o.data.Made))
	for _, m := range o.data.Made {
		known[uint64(m.Start)] = true
	}
	wrong := make(map[uint64]bool)
	for _, p := range functions {
		if known[p.Value] || o.startsFunction(mem.Virt(p.Value)) {
			continue
		}
		name, ok := o.loadedSince(modules, mem.Virt(p.Value))
		if !ok {
			wrong[p.Value] = true
			continue
		}
		o.loading[p.Value] = true
		if !slices.Contains(o.data.Loading, name) {
			o.data.Loading = append(o.data.Loading, name)
		}
	}
	owned := func(p graph.Pointer) bool {
		return known[p.Value] || inPacks(o.data.Packs, address(p.Value)) || o.startsFunction(mem.Virt(p.Value))
	}
	if !slices.ContainsFunc(programs, func(p graph.Pointer) bool { return !owned(p) }) {
		return wrong
	}
	o.data.Packs = append(o.data.Packs, o.unnamedPrograms()...) // takes longer
	for _, p := range programs {
		if !owned(p) {
			wrong[p.Value] = true
		}
	}
	return wrong
}

// loadedSince names the module that holds an address, if the scan's own list of
// modules, which pointers are judged by, does not have it.
func (c *collector) loadedSince(now []kernel.LoadedModule, at mem.Virt) (string, bool) {
	for i := range now {
		if !now[i].Holds(at) {
			continue
		}
		for k := range c.modules {
			if c.modules[k].At == now[i].At && c.modules[k].Name == now[i].Name {
				return "", false
			}
		}
		return now[i].Name, true
	}
	return "", false
}

// facts turns the last walk into facts, with the suspects that were confirmed.
// What looked wrong and was not is left out: it was never there, or is no more.
func (o *objectsReader) facts() {
	d, r := o.data, o.last
	d.Calls = o.traceCalls()
	d.Unsettled, d.Changing = unsettledTracepoints(o.modules, o.modulesThen)
	for _, p := range r.Pointers {
		if !o.wrong[p.Value] && !o.loading[p.Value] {
			d.Targets = append(d.Targets, o.target(p))
		}
	}
	for _, p := range r.Programs {
		if !o.wrong[p.Value] {
			d.Programs = append(d.Programs, o.target(p))
		}
	}
	confirmed := o.confirmed()
	for _, s := range o.undecided() {
		d.Going = append(d.Going, o.target(graph.Pointer{Value: s.Value, At: s.At, Path: s.Path, Count: 1}))
	}
	d.Changed -= min(d.Changed, len(confirmed)+d.Freed+len(d.Going))
	for _, s := range confirmed {
		into := (*[]targetFact)(&d.Targets)
		switch {
		case s.Table:
			into = &d.Tables
		case s.Program:
			into = &d.Programs
		}
		if n := len(*into); n > 0 && (*into)[n-1].Value == address(s.Value) {
			(*into)[n-1].Count++
			(*into)[n-1].Low, (*into)[n-1].High = 0, 0 // not of all
			continue
		}
		*into = append(*into, o.target(graph.Pointer{Value: s.Value, At: s.At, Path: s.Path, Count: 1}))
	}
	for _, into := range []*[]targetFact{(*[]targetFact)(&d.Targets), &d.Programs} {
		slices.SortFunc(*into, func(a, b targetFact) int { return cmp.Compare(a.Value, b.Value) })
	}
	for _, one := range r.Caches {
		if one.Live > 0 && one.Pointers > 0 {
			d.Caches = append(d.Caches, cacheFact{one.Name, one.Reached, one.Live, one.Pointers})
		}
	}
	d.Untyped, d.Filled, d.NotWalked, d.Limited = r.Untyped, r.Filled, r.NotWalked, r.Limited
	if o.packs != nil {
		d.NotWalked = append(d.NotWalked, o.packs.Error())
	}
}

// confirmed returns the suspects that were found often enough, those of one value
// together.
func (o *objectsReader) confirmed() []graph.Suspect {
	var out []graph.Suspect
	for _, t := range o.tally {
		if t.walks >= objectConfirmations && o.among[t.Place] {
			out = append(out, t.Suspect)
		}
	}
	slices.SortFunc(out, func(a, b graph.Suspect) int {
		return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(len(a.Path), len(b.Path)), cmp.Compare(a.At, b.At))
	})
	return out
}

// inPacks reports whether an address is where the kernel makes the code of BPF
// programs.
func inPacks(packs []owner, at address) bool {
	return slices.ContainsFunc(packs, func(p owner) bool { return at >= p.Start && uint64(at-p.Start) < p.Size })
}
