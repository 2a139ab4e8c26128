package graph

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Limits on what the target's types may ask for.
const (
	maxTypeSize = 1 << 20 // bytes of one structure
	maxFields   = 1 << 14 // of one structure, arrays expanded
	maxNesting  = 24      // of structures in each other
	maxTypes    = 1 << 15 // compiled
)

type kind uint8

const (
	code      kind = iota // pointer to a function
	table                 // pointer to a table of functions
	object                // pointer to a structure
	anything              // void pointer
	container             // head of a list, a tree or an array
)

// field is a member that a walk looks at.
type field struct {
	at   uint32 // bytes from the start
	kind kind
	name string     // path from the outermost structure, "kobj.ktype"
	to   *Type      // of table and object
	held *holding   // of container
	when *condition // of a member of a union; nil otherwise

	program bool   // of code: see programs
	boot    bool   // of code: may lead into text that was freed after boot
	left    string // of code: the only function it may lead to there; see leftBehind
	number  uint32 // among all fields of a kernel and its modules
}

// Type is a structure compiled to what a walk needs of it.
type Type struct {
	Name string
	Size uint64 // bytes

	fields   []field
	pointers int  // fields of kind code and table
	codes    int  // of kind code
	unions   int  // members of unions that are left out
	isTable  bool // mostly functions
	low, end uint64

	promotions []promoted

	schema   *Schema
	source   btf.Type
	compiled bool
}

// Schema compiles types. It is safe for concurrent use.
type Schema struct {
	types *kernel.Types
	base  *Schema // of a module: the kernel's

	symbols map[string]uint64 // that the tables name
	numbers *atomic.Uint32    // of fields

	mu       sync.Mutex
	compiled map[btf.Type]*Type
	missing  map[string]bool // of the tables: what this kernel has no member for

	spare     []*scratch
	variables map[string]*Type
	modules   map[*kernel.Types]*Schema
	perCPU    []perCPUVariable // nil until made
	called    []calledRoot     // nil until made
}

// NewSchema returns the schema of a kernel's types, or of a module's on top of
// its kernel's.
func NewSchema(types *kernel.Types, base *Schema) *Schema {
	numbers := new(atomic.Uint32)
	if base != nil {
		numbers = base.numbers
	}
	return &Schema{types: types, base: base, numbers: numbers, compiled: make(map[btf.Type]*Type), missing: make(map[string]bool),
		variables: make(map[string]*Type), modules: make(map[*kernel.Types]*Schema)}
}

// module returns the schema of a module's types.
func (s *Schema) module(types *kernel.Types) *Schema {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.modules[types]; m != nil {
		return m
	}
	m := NewSchema(types, s)
	if len(s.modules) < maxTypes {
		s.modules[types] = m
	}
	return m
}

// Struct returns a compiled structure by name.
func (s *Schema) Struct(name string) (*Type, error) {
	if s.base != nil {
		if own, err := first(s.types, name); err == nil {
			return s.compile(own), nil
		}
		return s.base.Struct(name)
	}
	t, err := first(s.types, name)
	if err != nil {
		return nil, err
	}
	return s.compile(t), nil
}

// first returns the first structure of a name: a few names of a kernel stand
// for several.
func first(types *kernel.Types, name string) (t *btf.Struct, err error) {
	defer func() { // the parser is not ours
		if r := recover(); r != nil {
			err = fmt.Errorf("struct %s: %v", name, r)
		}
	}()
	all, err := types.Named(name)
	if err != nil {
		return nil, fmt.Errorf("struct %s: %w", name, err)
	}
	for _, one := range all {
		if st, ok := one.(*btf.Struct); ok {
			return st, nil
		}
	}
	return nil, fmt.Errorf("struct %s: %w", name, btf.ErrNotFound)
}

// compile returns the type with its fields and those of all it leads to.
func (s *Schema) compile(t btf.Type) *Type {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.declare(t, t.TypeName())
	s.settle(out)
	return out
}

// settle compiles what was declared, until nothing new is.
func (s *Schema) settle(first *Type) {
	work := []*Type{first}
	for len(work) > 0 {
		t := work[len(work)-1]
		work = work[:len(work)-1]
		if t.compiled || t.schema != s {
			continue
		}
		t.compiled = true
		for _, next := range s.fill(t) {
			if !next.compiled && next.schema == s {
				work = append(work, next)
			}
		}
	}
}

// declare makes the type without its fields.
func (s *Schema) declare(t btf.Type, name string) *Type {
	if s.base != nil {
		if base := s.fromBase(t); base != nil {
			return base
		}
	}
	if known := s.compiled[t]; known != nil {
		return known
	}
	size, err := btf.Sizeof(t)
	if err != nil || size < 0 || size > maxTypeSize {
		size = 0
	}
	out := &Type{Name: name, Size: uint64(size), schema: s, source: t}
	if len(s.compiled) < maxTypes {
		s.compiled[t] = out
	} else {
		out.compiled = true // and empty
	}
	if st, ok := t.(*btf.Struct); ok {
		out.isTable = mostlyFunctions(st)
	}
	return out
}

// fromBase returns the kernel's own type for one that a module shares with it.
func (s *Schema) fromBase(t btf.Type) *Type {
	types := s.base.types
	var own btf.Type
	var err error
	types.Locked(func() {
		var id btf.TypeID
		if id, err = types.Spec.TypeID(t); err == nil {
			own, err = types.Spec.TypeByID(id)
		}
	})
	if err != nil {
		return nil
	}
	return s.base.compile(own)
}

// mostlyFunctions reports whether a structure is a table of functions: half of
// its words or more are, or its name says so and one is.
func mostlyFunctions(t *btf.Struct) bool {
	functions := 0
	for _, m := range t.Members {
		if isFunction(m.Type) {
			functions++
		}
	}
	named := strings.HasSuffix(t.Name, "_ops") || strings.HasSuffix(t.Name, "_operations")
	return functions > 0 && (named || functions*16 >= int(t.Size))
}

// bare takes qualifiers and names off a type.
func bare(t btf.Type) btf.Type {
	for range maxNesting {
		switch q := t.(type) {
		case *btf.Typedef:
			t = q.Type
		case *btf.Const:
			t = q.Type
		case *btf.Volatile:
			t = q.Type
		case *btf.Restrict:
			t = q.Type
		case *btf.TypeTag:
			t = q.Type
		default:
			return t
		}
	}
	return t
}

func isFunction(t btf.Type) bool {
	p, ok := bare(t).(*btf.Pointer)
	if !ok {
		return false
	}
	_, ok = bare(p.Target).(*btf.FuncProto)
	return ok
}

// fill compiles the members of t and returns the types that they lead to.
func (s *Schema) fill(t *Type) (next []*Type) {
	f := filler{schema: s, into: t}
	f.member(t.source, "", "", 0, 0, nil)
	if len(f.into.fields) > maxFields {
		t.fields = nil
	}
	slices.SortStableFunc(t.fields, func(a, b field) int { return int(a.at) - int(b.at) })
	for i := range t.fields {
		switch t.fields[i].kind {
		case code:
			t.pointers++
			t.codes++
		case table:
			t.pointers++
		}
		if to := t.fields[i].to; to != nil {
			next = append(next, to)
		}
		if h := t.fields[i].held; h != nil && h.elem != nil {
			next = append(next, h.elem)
		}
	}
	for _, p := range promotions[t.Name] {
		if one, err := s.promoted(t, p); err != nil {
			s.missing[err.Error()] = true
		} else {
			t.promotions = append(t.promotions, one)
			next = append(next, one.as)
		}
	}
	if len(t.fields) > 0 {
		t.low = uint64(t.fields[0].at)
		for i := range t.fields {
			t.end = max(t.end, uint64(t.fields[i].at)+t.fields[i].width())
		}
	}
	return next
}

// width is how many bytes of its structure a field needs.
func (f *field) width() uint64 {
	end := uint64(8)
	if f.held != nil {
		end = f.held.kind.width()
	}
	return end
}

// Missing lists what the tables name and this kernel's types do not have.
func (s *Schema) Missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name := range s.missing {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
