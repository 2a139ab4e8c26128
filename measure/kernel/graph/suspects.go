package graph

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Suspect is a pointer that looks wrong, one for each place. The objects that
// led to it were read again afterwards, twice, and led to it each time; none of
// them was free by the allocator's account.
type Suspect struct {
	Place
	Path    string
	Program bool // the pointer is to the code of a BPF program
}

// Place is a pointer that looks wrong, as different walks find it.
type Place struct {
	At, Value uint64
	// Table says that the pointer is to a table of functions, and what it leads to
	// cannot be one: it is text, or no memory, or not the kernel's.
	Table bool
}

// Suspicion says what is looked at again.
type Suspicion struct {
	// Wrong says which of the functions and programs that a walk found look wrong,
	// by their addresses. It is called once, at the end of the walk.
	Wrong func(functions, programs []Pointer) map[uint64]bool
	// Among are the places that earlier walks found; nil if there was none. Others
	// are no suspects.
	Among map[Place]bool
	// Brief says that the caller walks again if there is more than a walk looks at:
	// the walk ends there, and its result says nothing else.
	Brief bool
	// Breathe, if any, is called every few tenths of a millisecond: it may wait.
	Breathe func()
}

// maxSuspects bounds the pointers that are looked at again.
const maxSuspects = 1 << 12

// retraces is how often the way to a suspect is read again. A pointer that was
// read between two readings of the whole way was on it, but for objects that were
// taken off and put back in between.
const retraces = 2

// slot is where a suspect is stored: a field of an object.
type slot struct {
	at, value uint64
	node      int32
	field     *field
}

func (s *slot) place() Place { return Place{s.at, s.value, s.field.kind == table} }

// wrongTable reports whether a pointer to a table of functions leads to what is
// none: text, which holds instructions (an inode that waits to be freed has the
// function that frees it where i_fop was), memory that cannot be read, or a
// process's. What it leads to is not walked.
func (w *walker) wrongTable(value uint64) bool {
	switch {
	case value == 0 || value >= firstError:
		return false
	case !high(value):
		return true
	case w.areas.text(value):
		return true
	}
	return w.unreadable(value)
}

// firstError is the first of the addresses that are error numbers instead
// (include/linux/err.h, MAX_ERRNO).
const firstError = ^uint64(0) - 4094

// table looks at a pointer to a table of functions and reports whether what it
// leads to is to be visited.
func (w *walker) table(i int32, f *field, at, value uint64) bool {
	if w.again(f, value) {
		if w.badTables[value] {
			w.suspect(slot{at, value, i, f})
		}
		return false
	}
	if !w.wrongTable(value) {
		return true
	}
	w.badTables[value] = true
	w.suspect(slot{at, value, i, f})
	return false
}

func (w *walker) suspect(s slot) {
	if len(w.suspects) == maxSuspects {
		w.why["pointers that look wrong over the limit of a walk"]++
		w.limited = true
		return
	}
	w.suspects = append(w.suspects, s)
	w.noted++
}

// collect finds where the functions that look wrong are stored, in what this walk
// read: a second pass, which is needed only if there are any.
func (w *walker) collect(wrong map[uint64]bool) {
	if len(wrong) == 0 {
		return
	}
	for i := range w.nodes {
		n := &w.nodes[i]
		if n.typ.codes == 0 || !w.visits(n) {
			continue
		}
		raw, err := w.read(n.at+n.typ.low, n.typ.end-n.typ.low)
		if err != nil {
			continue
		}
		raw = append([]byte(nil), raw...)
		for j := range n.typ.fields {
			f := &n.typ.fields[j]
			if f.kind != code || f.when != nil && !w.holds(f.when, n.at) {
				continue
			}
			if value := binary.LittleEndian.Uint64(raw[uint64(f.at)-n.typ.low:]); wrong[value] {
				w.suspect(slot{n.at + uint64(f.at), value, int32(i), f})
			}
		}
	}
}

// visits reports whether a walk looks into an object: one that reads the way to
// suspects again looks only into what is on it.
func (w *walker) visits(n *node) bool { return w.only == nil || w.only[visit{n.at, n.typ}] }

// confirm drops the suspects that are not found again by the way that led to
// them, and those in memory that is free.
func (w *walker) confirm(ctx context.Context, p *kernel.Profile, modules []kernel.LoadedModule, wrong map[uint64]bool, among map[Place]bool) error {
	w.collect(wrong)
	w.suspects = slices.DeleteFunc(w.suspects, func(s slot) bool {
		place := s.place()
		w.odd = append(w.odd, place)
		return among != nil && !among[place]
	})
	for range retraces {
		if len(w.suspects) == 0 {
			return nil
		}
		if err := w.retrace(ctx, p, modules, wrong); err != nil {
			return err
		}
	}
	return nil
}

// retrace reads the objects on the way to the suspects again.
func (w *walker) retrace(ctx context.Context, p *kernel.Profile, modules []kernel.LoadedModule, wrong map[uint64]bool) error {
	memory := w.schema.borrow()
	defer w.schema.give(memory)
	again := newWalker(ctx, p, w.schema, memory, modules)
	again.only = make(map[visit]bool)
	for _, s := range w.suspects {
		for i := s.node; i >= 0; i = w.nodes[i].parent {
			on := visit{w.nodes[i].at, w.nodes[i].typ}
			if again.only[on] {
				break
			}
			again.only[on] = true
		}
	}
	again.start(modules)
	if err := again.run(); err != nil {
		return err
	}
	again.collect(wrong)
	held := make(map[Place]bool, len(again.suspects))
	for i := range again.suspects {
		held[again.suspects[i].place()] = true
	}
	slabs := again.areas.slabs // with memory read later; nil if nothing is known of it
	free := w.ways(func(n *node) bool { return slabs != nil && slabs.free(n.at) })
	going, err := w.unlive(modules)
	if err != nil {
		return err
	}
	kept := w.suspects[:0]
	for _, s := range w.suspects {
		switch {
		case !held[s.place()]:
			w.torn++
		case free.any(s.node):
			w.freed++
		case going.any(s.node):
			w.going = append(w.going, s)
		default:
			kept = append(kept, s)
		}
	}
	w.suspects = kept
	return nil
}

// unlive tells whether an object was reached through a module that is not live.
func (w *walker) unlive(modules []kernel.LoadedModule) (*ways, error) {
	u, err := newUnlive(w.profile, modules)
	switch {
	case err == nil:
		return w.ways(u.has), nil
	case len(modules) == 0: // the kernel may have none
		return w.ways(func(*node) bool { return false }), nil
	}
	return nil, err
}

// suspected returns places with the ways to them.
func (w *walker) suspected(places []slot) []Suspect {
	out := make([]Suspect, 0, len(places))
	for i := range places {
		s := &places[i]
		out = append(out, Suspect{Place: s.place(), Path: w.path(s.node, s.field.name), Program: s.field.program})
	}
	return out
}
