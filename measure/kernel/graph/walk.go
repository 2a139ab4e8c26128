package graph

import (
	"context"
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// node is an object that was reached.
type node struct {
	at     uint64
	typ    *Type
	field  *field // of the parent, that led here; nil for a root
	parent int32  // -1 for a root
	index  int32  // in the container, -1 if it is none
	depth  int32
	root   int32
	typed  *cache // whose slot it is
	done   bool   // visited
}

// walker is one walk.
type walker struct {
	*reader
	ctx     context.Context
	profile *kernel.Profile
	schema  *Schema
	areas   *areas

	named    map[int32]prefix // paths of objects
	targets  map[uint64]*target
	programs map[uint64]*target
	perRoot  []int32
	visited  int64
	why      map[string]int64 // what was not walked
	lacks    []string         // roots that the kernel does not have

	rootNames []string

	at      int32 // whose container is being walked
	held    *field
	example map[string]string // by why: the path of the first
	steps   int
	limited bool // something was over a limit
	brief   bool // and then the walk ends
	breathe func()
	ticks   int
	err     error    // why the walk ends
	nested  int      // objects that are being visited on the way to others
	noted   int64    // that an object is spoken of
	last    []uint64 // values, by the number of their field

	counts int64 // fields that were counted
	filled int64

	only        map[visit]bool // of these objects; nil of all
	suspects    []slot
	badTables   map[uint64]bool
	odd         []Place
	going       []slot // suspects reached through modules that are not live
	torn, freed int64  // suspects that were none

	task             *Type           // struct task_struct
	pid, comm, stack uint64          // offsets in it
	stacks           map[uint64]bool // of tasks that were visited, by stackShift
}

// anyType stands for the type of a field: a set of fields needs none.
var anyType = &Type{}

// target is a value that pointers to functions have.
type target struct {
	count int64
	node  int32
	field *field
	at    uint64

	low, high uint64 // where pointers to it are stored
}

// push queues an object that was not visited.
func (w *walker) push(n node) {
	if n.typ == nil || len(n.typ.fields) == 0 || !high(n.at) || n.at&7 != 0 {
		return
	}
	if w.visited >= int64(w.limits.objects) || len(w.nodes) >= w.limits.nodes || n.depth > maxDepth || int(w.perRoot[n.root]) >= w.limits.root {
		const why = "objects over the limit of a walk"
		if w.why[why]++; w.why[why] == 1 && n.parent >= 0 {
			w.example[why] = w.path(n.parent, n.field.name)
		}
		w.limited = true
		return
	}
	if !w.add(n.at, n.typ) {
		return
	}
	w.perRoot[n.root]++
	w.visited++
	w.nodes = append(w.nodes, n)
	if len(w.nodes) > w.limits.plain {
		w.early(int32(len(w.nodes) - 1))
	}
}

// over reports whether there is more than the walk looked at.
func (w *walker) over() bool { return w.limited || w.exhausted() || w.full }

// breath is how many objects are visited, or elements of containers looked at,
// without a chance to breathe.
const breath = 512

func (w *walker) tick() {
	if w.ticks++; w.ticks%breath == 0 && w.err == nil {
		w.err = w.ctx.Err()
		w.breathe()
	}
}

// run visits all that was queued, breadth first.
func (w *walker) run() error {
	for i := 0; i < len(w.nodes) && !(w.brief && w.over()); i++ {
		if w.tick(); w.err != nil {
			return w.err
		}
		if n := &w.nodes[i]; !n.done && w.visits(n) {
			n.done = true
			w.object(int32(i))
		}
	}
	return w.err
}

// object looks at the fields of one object.
func (w *walker) object(i int32) {
	n := w.nodes[i]
	t := n.typ
	if t == w.task {
		w.stackOf(n.at)
	}
	raw, err := w.read(n.at+t.low, t.end-t.low)
	if err != nil {
		w.why["objects in memory that could not be read"]++
		return
	}
	// The walk reads on while it looks at them.
	if uint64(len(raw)) > mem.PageSize-(n.at+t.low)%mem.PageSize {
		raw = append([]byte(nil), raw...)
	} else if page := w.latest; len(raw) > 0 {
		page.pins++
		defer func() { page.pins-- }()
	}
	for j := range t.fields {
		f := &t.fields[j]
		if f.when != nil && !w.holds(f.when, n.at) {
			continue
		}
		if f.kind == container {
			w.contained(i, &n, f)
			continue
		}
		value := binary.LittleEndian.Uint64(raw[uint64(f.at)-t.low:])
		switch f.kind {
		case code:
			w.function(i, &n, f, n.at+uint64(f.at), value)
		case table:
			at := n.at + uint64(f.at)
			w.counted(&n, at, value)
			if w.table(i, f, at, value) {
				w.push(node{at: value, typ: f.to, field: f, parent: i, index: -1, depth: n.depth + 1, root: n.root})
			}
		case object, anything:
			w.follow(i, &n, f, value)
		}
	}
	w.unions(&n)
	w.promote(i, &n)
}

// again reports whether a field of the object before had the same value: most
// files of a file system have the same super block and the same operations.
func (w *walker) again(f *field, value uint64) bool {
	if int(f.number) >= len(w.last) {
		w.last = append(w.last, make([]uint64, int(f.number)+1-len(w.last)+1024)...)
	}
	if w.last[f.number] == value {
		return true
	}
	w.last[f.number] = value
	return false
}

// follow queues what a pointer leads to.
func (w *walker) follow(i int32, n *node, f *field, value uint64) {
	if !high(value) || value&7 != 0 || f.to != nil && len(f.to.fields) == 0 || w.again(f, value) {
		return
	}
	if f.to != nil && w.has(value, f.to) {
		return
	}
	if w.stacks[value>>stackShift] {
		w.why["structures on the stacks of tasks"]++
		return
	}
	at, t, ok := w.areas.lies(value, f.to)
	if !ok {
		return
	}
	w.push(node{at: at, typ: t, field: f, parent: i, index: -1, depth: n.depth + 1, root: n.root, typed: w.typed(at, t)})
}

// typed returns the cache whose object at is, if it is of the cache's type and all
// others are.
func (w *walker) typed(at uint64, t *Type) *cache {
	if w.areas.slabs == nil {
		return nil
	}
	if s := w.areas.slabs.find(at); s != nil && s.cache.typ == t && !s.cache.merged && at >= s.start && s.slot(at) == at {
		return s.cache
	}
	return nil
}

// element queues an element of a container.
func (w *walker) element(i int32, n *node, f *field, at uint64, index int) {
	t, ok := f.held.elem, !w.areas.nothing(at)
	if !f.held.exact {
		at, t, ok = w.areas.lies(at, t)
	}
	if !ok {
		return
	}
	w.push(node{at: at, typ: t, field: f, parent: i, index: int32(index), depth: n.depth + 1, root: n.root, typed: w.typed(at, t)})
}

// function notes a pointer to a function.
func (w *walker) function(i int32, n *node, f *field, at, value uint64) {
	w.counted(n, at, value)
	if value == 0 {
		return
	}
	if (f.boot || f.left != "" && value == w.address(f.left)) && w.areas.freedAfterBoot(value) {
		w.why["variables that lead into text that was freed after boot"]++
		return
	}
	targets := w.targets
	if f.program {
		targets = w.programs
	}
	if known := targets[value]; known != nil {
		known.count++
		known.low, known.high = min(known.low, at), max(known.high, at)
		return
	}
	if len(targets) >= maxTargets {
		w.why["functions over the limit of a walk"]++
		w.limited = true
		return
	}
	targets[value] = &target{count: 1, node: i, field: f, at: at, low: at, high: at}
	w.noted++
}

// counted notes a field for the coverage. An object of a typed cache is visited
// once; others may lie in each other, so their fields are kept.
func (w *walker) counted(n *node, at, value uint64) {
	if n.typed == nil {
		if !w.add(at, anyType) {
			return
		}
		w.counts++
	}
	if value != 0 {
		w.filled++
	}
}

func (w *walker) unions(n *node) {
	if n.typed != nil {
		n.typed.reached++
	}
	if n.typ.unions > 0 {
		w.why["members of unions that nothing tells apart"] += int64(n.typ.unions)
	}
}

// holds reports whether a condition is met.
func (w *walker) holds(c *condition, at uint64) bool {
	raw, err := w.read(at+uint64(c.at), c.size)
	if err != nil {
		return false
	}
	var padded [8]byte
	copy(padded[:], raw)
	value := binary.LittleEndian.Uint64(padded[:])
	if c.symbol != "" {
		return value != 0 && value == w.address(c.symbol)
	}
	return (value&c.mask == c.equals) != c.not
}

// address returns a symbol of the kernel, 0 if it has none, or several and not
// one of them global.
func (w *walker) address(name string) uint64 { return w.schema.symbols[name] }

// promote queues the larger structure in which an object lies.
func (w *walker) promote(i int32, n *node) {
	for k := range n.typ.promotions {
		p := &n.typ.promotions[k]
		value, err := w.u64(n.at + p.member)
		if err != nil || value == 0 || value != w.address(p.symbol) {
			continue
		}
		at := n.at - p.into
		w.push(node{at: at, typ: p.as, field: &p.field, parent: i, index: -1, depth: n.depth + 1, root: n.root, typed: w.typed(at, p.as)})
		return
	}
}
