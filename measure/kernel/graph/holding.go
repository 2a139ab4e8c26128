package graph

import (
	"errors"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// form is how a container links what it holds.
type form uint8

const (
	list       form = iota // struct list_head
	hlist                  // struct hlist_head, hlist_nulls_head, hlist_bl_head
	tree                   // struct rb_root
	xarray                 // struct xarray, radix_tree_root, idr: by its xa_head
	maple                  // struct maple_tree
	pointers               // pointer to an array of pointers
	inPlace                // array of structures at the member itself
	terminated             // pointer to an array of structures, the last starts with zero
	filling                // pointer to an array of pointers that is an object of the allocator
	relative               // pointer to an array of 32-bit distances, each from itself to a structure
	chain                  // pointer to the first of what a pointer in each links, such as struct llist_head
)

// width is how many bytes of its owner a head takes.
func (k form) width() uint64 {
	if k == inPlace {
		return 0
	}
	return 8
}

// heads reports whether a member of this type can be the head of a list, where
// it is one of the two kinds of lists, or a pointer to distances.
func (k form) heads(t btf.Type) bool {
	t = bare(t)
	if k == relative {
		p, ok := t.(*btf.Pointer)
		if !ok {
			return false
		}
		distance, ok := bare(p.Target).(*btf.Int)
		return ok && distance.Size == 4
	}
	if a, ok := t.(*btf.Array); ok {
		t = bare(a.Type)
	}
	switch name := t.TypeName(); k {
	case list:
		return name == "list_head"
	case hlist:
		return strings.HasPrefix(name, "hlist_")
	}
	return true
}

// holding is what a container holds.
type holding struct {
	kind    form
	elem    *Type
	link    uint64 // offset of the link in elem
	counted string // member of the owner with the number of elements
	count   int64  // where that is, from the head
	head    uint64 // offset of the head's pointer in the member
	skip    uint64 // the head lies at this offset of an object of type elem
	exact   bool   // see held
}

// holding returns what the table of containers says of a member.
func (s *Schema) holding(owner, name string, head btf.Type) *holding {
	lines := containers[owner+"."+name]
	if lines == nil {
		lines = containers[owner+".*"]
	}
	var fitting []held
	for _, line := range lines {
		if line.form.heads(head) {
			fitting = append(fitting, line)
		}
	}
	h, err := s.resolve(fitting)
	if err != nil {
		s.missing[err.Error()] = true
	}
	return h
}

// resolve takes the first of the lines that this kernel's types have.
func (s *Schema) resolve(lines []held) (*holding, error) {
	var errs []error
	for _, line := range lines {
		h, err := s.hold(line)
		if err == nil {
			return h, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// hold looks up what a container holds.
func (s *Schema) hold(c held) (*holding, error) {
	name, link, _ := strings.Cut(c.elem, ".")
	t, err := s.structLocked(name)
	if err != nil {
		return nil, err
	}
	h := &holding{kind: c.form, elem: t, counted: c.count, exact: c.exact}
	if link != "" {
		at, err := s.offset(name, link)
		if err != nil {
			return nil, err
		}
		h.link = at
	}
	for path, into := range map[string]*uint64{c.head: &h.head, c.skip: &h.skip} {
		if path == "" {
			continue
		}
		owner, member, _ := strings.Cut(path, ".")
		at, err := s.offset(owner, member)
		if err != nil {
			return nil, err
		}
		*into = at
	}
	return h, nil
}

func (s *Schema) structLocked(name string) (*Type, error) {
	t, err := first(s.types, name)
	if err != nil && s.base != nil {
		return s.base.Struct(name)
	}
	if err != nil {
		return nil, err
	}
	return s.declare(t, name), nil
}

// condition says when a member of a union is the one that is meant.
type condition struct {
	at     uint32 // in the outermost structure
	size   uint64 // bytes
	mask   uint64
	equals uint64
	symbol string // whose address it equals, instead
	not    bool
}

func (s *Schema) condition(c choice, owner string, ownerAt uint32) (*condition, error) {
	m, err := s.member(owner, c.member)
	if err != nil {
		return nil, err
	}
	return &condition{at: ownerAt + uint32(m.Offset), size: min(m.Size, 8), mask: c.mask, equals: c.equals, symbol: c.symbol, not: c.not}, nil
}

// promoted is a promotion, looked up.
type promoted struct {
	field  field  // for paths
	member uint64 // offset of the pointer that tells
	symbol string
	as     *Type
	into   uint64 // offset of the object in as
}

func (s *Schema) promoted(t *Type, p promotion) (promoted, error) {
	name, member, _ := strings.Cut(p.as, ".")
	as, err := s.structLocked(name)
	if err != nil {
		return promoted{}, err
	}
	into, err1 := s.offset(name, member)
	at, err2 := s.offset(t.Name, p.member)
	return promoted{field: field{name: "(" + name + ")"}, member: at, symbol: p.symbol, as: as, into: into}, errors.Join(err1, err2)
}

// member returns a member by its path, "km.all".
func (s *Schema) member(structure, path string) (kernel.Member, error) {
	t, err := first(s.types, structure)
	if err != nil && s.base != nil {
		return s.base.member(structure, path)
	}
	if err != nil {
		return kernel.Member{}, err
	}
	return kernel.MemberOf(t, strings.Split(path, ".")...)
}

func (s *Schema) offset(structure, path string) (uint64, error) {
	m, err := s.member(structure, path)
	return m.Offset, err
}
