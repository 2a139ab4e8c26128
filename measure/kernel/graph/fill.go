package graph

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// filler compiles the members of one structure.
type filler struct {
	schema *Schema
	into   *Type
}

// place is where a member is: in which named structure, and where that starts.
type place struct {
	owner   string // the innermost structure that has a name
	ownerAt uint32
	at      uint32
	path    string // from the outermost structure
	when    *condition
	depth   int
}

// member compiles one member, or the structure itself.
func (f *filler) member(t btf.Type, owner, path string, ownerAt, at uint32, when *condition) {
	f.walk(t, "", place{owner: owner, ownerAt: ownerAt, at: at, path: path, when: when})
}

// walk compiles a member called name.
func (f *filler) walk(t btf.Type, name string, p place) {
	if p.depth > maxNesting || len(f.into.fields) > maxFields {
		return
	}
	p.depth++
	key := p.owner + "." + name
	if skipped[key] != "" {
		return
	}
	if h := f.schema.holding(p.owner, name, t); h != nil {
		if f.holds(t, h, p) {
			return
		}
	}
	switch t := bare(t).(type) {
	case *btf.Struct:
		f.structure(t, p)
	case *btf.Union:
		f.union(t, p)
	case *btf.Array:
		f.array(t, name, p)
	case *btf.Pointer:
		f.pointer(t, name, p)
	}
}

func (f *filler) structure(t *btf.Struct, p place) {
	if skippedTypes[t.Name] != "" && (t.Name != callback || p.depth > 1) {
		return
	}
	if t.Name != "" {
		p.owner, p.ownerAt = t.Name, p.at
	}
	for _, m := range t.Members {
		if m.BitfieldSize == 0 {
			f.inner(m, p)
		}
	}
}

// inner compiles a member of a structure or a union.
func (f *filler) inner(m btf.Member, p place) {
	at := p.at + m.Offset.Bytes()
	if at < p.at || uint64(at) > maxTypeSize {
		return
	}
	p.at = at
	if m.Name != "" {
		p.path = joined(p.path, m.Name)
	}
	f.walk(m.Type, m.Name, p)
}

func joined(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// union compiles what can be told of a union: its first member if all are
// functions, and those members that the table of choices has.
func (f *filler) union(t *btf.Union, p place) {
	all := len(t.Members) > 0
	for _, m := range t.Members {
		all = all && isFunction(m.Type)
	}
	if all {
		f.add(field{at: p.at, kind: code, name: p.path, when: p.when})
		return
	}
	for _, m := range t.Members {
		choice, ok := choices[p.owner+"."+m.Name]
		if !ok || p.when != nil {
			f.leftOut(m)
			continue
		}
		inner := p
		if choice.member != "" {
			var err error
			if inner.when, err = f.schema.condition(choice, p.owner, p.ownerAt); err != nil {
				f.schema.missing[err.Error()] = true
				continue
			}
		}
		f.inner(m, inner)
	}
}

// leftOut counts what a member of a union would have added.
func (f *filler) leftOut(m btf.Member) {
	switch bare(m.Type).(type) {
	case *btf.Pointer, *btf.Struct:
		f.into.unions++
	}
}

func (f *filler) array(t *btf.Array, name string, p place) {
	size, err := btf.Sizeof(t.Type)
	if err != nil || size <= 0 || t.Nelems > maxTypeSize {
		return
	}
	path := p.path
	for i := range t.Nelems {
		before := len(f.into.fields)
		p.path = fmt.Sprintf("%s[%d]", path, i)
		p.at = p.at + min(i, 1)*uint32(size)
		if uint64(p.at) > maxTypeSize {
			return
		}
		f.walk(t.Type, name, p)
		if len(f.into.fields) == before {
			return // nor will the others
		}
	}
}

func (f *filler) pointer(t *btf.Pointer, name string, p place) {
	out := field{at: p.at, name: p.path, when: p.when}
	if f.told(name, p) {
		return
	}
	if c := choices[p.owner+"."+name]; c.member != "" && p.when == nil {
		var err error
		if out.when, err = f.schema.condition(c, p.owner, p.ownerAt); err != nil {
			f.schema.missing[err.Error()] = true
			return
		}
	}
	switch to := bare(t.Target).(type) {
	case *btf.FuncProto:
		out.kind, out.program, out.left = code, programs[p.owner+"."+name], leftBehind[p.owner+"."+name]
	case *btf.Void:
		if out.kind = anything; functions[p.owner+"."+name] {
			out.kind = code
		}
	case *btf.Struct:
		if skippedTypes[to.Name] != "" || to.Size == 0 {
			return
		}
		out.kind, out.to = object, f.schema.declare(to, to.Name)
		if out.to.isTable {
			out.kind = table
		}
	default:
		return
	}
	f.add(out)
}

// told compiles a void pointer whose type another member tells.
func (f *filler) told(name string, p place) bool {
	t, ok := tolds[p.owner+"."+name]
	if !ok {
		return false
	}
	to, err1 := f.schema.structLocked(t.typ)
	when, err2 := f.schema.condition(choice{member: t.member, symbol: t.symbol, mask: t.mask, equals: t.equals}, p.owner, p.ownerAt)
	if err := errors.Join(err1, err2); err != nil {
		f.schema.missing[err.Error()] = true
		return true
	}
	f.add(field{at: p.at, kind: object, name: p.path, to: to, when: when})
	return true
}

// holds compiles the head of a container: of each element, if it is an array
// of heads.
func (f *filler) holds(t btf.Type, h *holding, p place) bool {
	if a, ok := bare(t).(*btf.Array); ok && h.kind != inPlace {
		size, err := btf.Sizeof(a.Type)
		if err != nil || size <= 0 || a.Nelems > maxFields {
			return false
		}
		path := p.path
		for i := range a.Nelems {
			p.path = fmt.Sprintf("%s[%d]", path, i)
			p.at = p.at + min(i, 1)*uint32(size)
			f.holds(a.Type, h, p)
		}
		return true
	}
	own := *h
	if h.counted != "" {
		at, err := f.schema.offset(p.owner, h.counted)
		if err != nil {
			f.schema.missing[err.Error()] = true
			return false
		}
		own.count = int64(p.ownerAt) + int64(at) - int64(p.at)
	}
	p.at += uint32(own.head)
	own.count -= int64(own.head)
	f.add(field{at: p.at, kind: container, name: p.path, held: &own, when: p.when})
	return true
}

func (f *filler) add(one field) {
	one.number = f.schema.numbers.Add(1) - 1
	f.into.fields = append(f.into.fields, one)
}
