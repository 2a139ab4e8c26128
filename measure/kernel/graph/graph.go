package graph

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Pointer is what a walk found of one function: all pointers to one address.
type Pointer struct {
	Value uint64 // where they point
	Count int64  // how many there are
	At    uint64 // where the first is stored
	Path  string // how that was reached, such as "task 812 (bash).files->fdt->fd[3]->f_op->read_iter"

	Low, High uint64 // of all of them, the lowest and the highest address where one is stored
}

// Cache is how much of one cache of the slab allocator a walk reached.
type Cache struct {
	Name, Type string
	Reached    int64 // objects
	Live       int64 // as the allocator counts them
	Pointers   int64 // to functions and to tables of them, in each
}

// Result of a walk.
type Result struct {
	Pointers []Pointer // by value, ascending
	Programs []Pointer // the same of BPF programs, whose code may have no symbol
	Odd      []Place   // that look wrong
	Suspects []Suspect // those of them that last
	// Going are those that were reached through a module that is being loaded or
	// unloaded, whose memory may be freed: it says nothing of them.
	Going []Suspect
	// Torn are pointers that looked wrong and were not there when the way to them
	// was read again; Freed those in objects that the allocator says are free.
	Torn, Freed int64
	Objects     int64 // visited
	Pages       int64 // read, of 4 KiB
	// Reached are fields that are pointers to functions or to tables of them,
	// in objects that were visited; Known are those in all objects that are
	// known to live: the visited ones, and the rest of the caches of one type.
	Reached, Known int64
	Filled         int64    // of Reached: not null
	Caches         []Cache  // of one type, by name
	Untyped        int64    // live objects of other caches
	NotWalked      []string // and why, with counts
	// Limited says that the walk came to one of its limits: there is more than
	// a machine has, or memory that claims so.
	Limited bool
}

type schemaKey struct{}

// Walk collects the pointers to functions that are reached from a kernel's
// roots; modules are the loaded ones. What a pointer leads to is looked at once,
// so the work is bounded by what lives, and by the limits above. Without a
// suspicion no pointer is looked at again.
func Walk(ctx context.Context, p *kernel.Profile, modules []kernel.LoadedModule, suspicion *Suspicion) (*Result, error) {
	schema := p.Derived(schemaKey{}, func() any { return newSchema(p) }).(*Schema)
	memory := schema.borrow()
	defer schema.give(memory)
	w := newWalker(ctx, p, schema, memory, modules)
	if suspicion != nil {
		w.brief = suspicion.Brief
		if suspicion.Breathe != nil {
			w.breathe = suspicion.Breathe
		}
	}
	w.start(modules)
	if err := w.run(); err != nil {
		return nil, err
	}
	if w.brief && w.over() {
		return &Result{Limited: true}, nil
	}
	r := &Result{Pointers: w.found(w.targets), Programs: w.found(w.programs)}
	if suspicion != nil {
		if err := w.confirm(ctx, p, modules, suspicion.Wrong(r.Pointers, r.Programs), suspicion.Among); err != nil {
			return nil, err
		}
		r.Odd, r.Suspects, r.Going, r.Torn, r.Freed = w.odd, w.suspected(w.suspects), w.suspected(w.going), w.torn, w.freed
	}
	w.result(r)
	return r, nil
}

func newWalker(ctx context.Context, p *kernel.Profile, schema *Schema, memory *scratch, modules []kernel.LoadedModule) *walker {
	w := &walker{
		reader: newReader(p.Space, memory, limitsFor(ramOf(p.Space.Memory()))), ctx: ctx, profile: p, schema: schema,
		targets:  make(map[uint64]*target, 1<<13),
		programs: make(map[uint64]*target), named: make(map[int32]prefix, 1<<12), stacks: make(map[uint64]bool),
		breathe: func() {}, why: make(map[string]int64), example: make(map[string]string), badTables: make(map[uint64]bool),
	}
	w.pid, _ = p.Types.Offset("task_struct", "pid")
	w.comm, _ = p.Types.Offset("task_struct", "comm")
	w.stack, _ = p.Types.Offset("task_struct", "stack")
	w.task, _ = schema.Struct("task_struct")
	slabs, err := newAllocator(p, w.reader, func(cache string) *Type { return cacheType(p, schema, modules, cache) })
	if err != nil {
		w.why[err.Error()]++
	} else if slabs.freeLists, err = newFreeLists(p); err != nil {
		slabs.freeLists = nil
		w.why["free objects are not told from others: "+err.Error()]++
	}
	w.areas = newAreas(p, slabs, modules)
	return w
}

// cacheType returns the type of a cache's objects, nil if there is no one.
func cacheType(p *kernel.Profile, schema *Schema, modules []kernel.LoadedModule, cache string) *Type {
	c, ok := cacheTypes[cache]
	if !ok {
		c.typ = cache
	}
	if c.module != "" {
		i := slices.IndexFunc(modules, func(m kernel.LoadedModule) bool { return m.Name == c.module })
		if i >= 0 {
			types, err := p.ModuleTypes(&modules[i])
			if err != nil {
				return nil
			}
			schema = schema.module(types)
		} // else it is built in
	}
	t, err := schema.Struct(c.typ)
	if err != nil && c.older != "" {
		t, err = schema.Struct(c.older)
	}
	if err != nil {
		return nil
	}
	return t
}

// newSchema returns the schema of a kernel.
func newSchema(p *kernel.Profile) *Schema {
	s := NewSchema(p.Types, nil)
	s.symbols = named(p.Symbols)
	return s
}

// found returns targets in order.
func (w *walker) found(targets map[uint64]*target) []Pointer {
	out := make([]Pointer, 0, len(targets))
	for _, value := range slices.Sorted(maps.Keys(targets)) {
		t := targets[value]
		out = append(out, Pointer{Value: value, Count: t.count, At: t.at, Low: t.low, High: t.high, Path: w.path(t.node, t.field.name)})
	}
	return out
}

// result fills in what a walk counted.
func (w *walker) result(r *Result) {
	r.Objects, r.Pages, r.Filled, r.Reached = w.visited, int64(w.asked), w.filled, w.counts
	if n := w.areas.contradicted; n > 0 {
		w.why["walked against the allocator: pointers to objects that it says are others"] = n
	}
	r.Limited = w.over()
	r.Known = r.Reached
	if w.areas.slabs != nil {
		for _, c := range w.areas.slabs.caches {
			if c.typ == nil || c.merged {
				r.Untyped += max(c.live, 0)
				continue
			}
			each := int64(c.typ.pointers)
			r.Reached += c.reached * each
			r.Known += max(c.live, c.reached) * each
			r.Caches = append(r.Caches, Cache{c.name, c.typ.Name, c.reached, c.live, each})
		}
	}
	slices.SortFunc(r.Caches, func(a, b Cache) int { return cmp.Compare(a.Name, b.Name) })
	for _, what := range slices.Sorted(maps.Keys(w.why)) {
		line := fmt.Sprintf("%s (%d)", what, w.why[what])
		if first := w.example[what]; first != "" {
			line += ", such as " + first
		}
		r.NotWalked = append(r.NotWalked, line)
	}
	if len(w.lacks) > 0 {
		r.NotWalked = append(r.NotWalked, "variables that this kernel does not have, or several of: "+strings.Join(w.lacks, " "))
	}
	r.NotWalked = append(r.NotWalked, w.schema.Missing()...)
}
