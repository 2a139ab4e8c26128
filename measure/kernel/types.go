package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// ErrNoMember means that a type has no member of a name.
var ErrNoMember = errors.New("type has no such member")

// Types are the types of a kernel, or of a module on top of its kernel's. Its
// methods are safe for concurrent use.
type Types struct {
	Spec *btf.Spec
	base *Types // a module's kernel's; nil for the kernel's own

	// mu is the kernel's, for its modules too: their Spec decodes what is the
	// kernel's without the lock of its Spec.
	mu      *sync.Mutex
	structs map[string]*btf.Struct // found before
}

// Locked runs f while no other goroutine decodes types of the kernel or of its
// modules, which whoever uses a Spec itself has to see to.
func (t *Types) Locked(f func()) {
	if t.mu != nil { // not read from memory: made for one goroutine
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	f()
}

// Named returns all types of a name.
func (t *Types) Named(name string) (all []btf.Type, err error) {
	t.Locked(func() { all, err = t.Spec.AnyTypesByName(name) })
	return all, err
}

// Enumerator returns the value of a name of an enumeration.
func (t *Types) Enumerator(enum, name string) (value uint64, ok bool) {
	all, err := t.Named(enum)
	if err != nil {
		return 0, false
	}
	for _, one := range all {
		if e, isEnum := one.(*btf.Enum); isEnum {
			for _, v := range e.Values {
				if v.Name == name {
					return v.Value, true
				}
			}
		}
	}
	return 0, false
}

// parseTypes reads raw BTF; base is nil for the kernel's own.
func parseTypes(raw []byte, base *Types) (t *Types, err error) {
	defer func() { // the bytes are hostile and the parser is not ours
		if r := recover(); r != nil {
			t, err = nil, fmt.Errorf("%w: %v", ErrNoTypes, r)
		}
	}()
	var spec *btf.Spec
	if base == nil {
		spec, err = btf.LoadSpecFromReader(bytes.NewReader(raw))
	} else {
		spec, err = btf.LoadSplitSpecFromReader(bytes.NewReader(raw), base.Spec)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTypes, err)
	}
	t = &Types{Spec: spec, base: base, mu: new(sync.Mutex), structs: make(map[string]*btf.Struct)}
	if base != nil {
		t.mu = base.mu
	}
	return t, nil
}

// Struct returns a structure by name. A module's own comes before the kernel's.
func (t *Types) Struct(name string) (s *btf.Struct, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("struct %s: %v", name, r)
		}
	}()
	t.Locked(func() { s, err = t.find(name) })
	if err != nil && t.base != nil {
		return t.base.Struct(name)
	}
	return s, err
}

// find looks a structure up, with the lock held.
func (t *Types) find(name string) (*btf.Struct, error) {
	if s := t.structs[name]; s != nil {
		return s, nil
	}
	var s *btf.Struct
	if err := t.Spec.TypeByName(name, &s); err != nil {
		return nil, fmt.Errorf("struct %s: %w", name, err)
	}
	if t.structs != nil {
		t.structs[name] = s
	}
	return s, nil
}

// Has reports whether the structure has the member; it is how code tells
// kernel versions apart.
func (t *Types) Has(structure string, path ...string) bool {
	_, err := t.Offset(structure, path...)
	return err == nil
}

// Size returns the size of a structure in bytes.
func (t *Types) Size(structure string) (uint64, error) {
	s, err := t.Struct(structure)
	if err != nil {
		return 0, err
	}
	return uint64(s.Size), nil
}

// Offset returns the offset of a member in bytes, such as "task_struct",
// "thread", "sp". Members of anonymous structures and unions are found by their
// own name. A bit field is an error: it has no offset in bytes.
func (t *Types) Offset(structure string, path ...string) (uint64, error) {
	m, err := t.Member(structure, path...)
	return m.Offset, err
}

// Member is a member of a structure, however deep.
type Member struct {
	Offset uint64 // bytes from the start of the outermost structure
	Size   uint64 // bytes
	Type   btf.Type
}

// Member returns a member by its path.
func (t *Types) Member(structure string, path ...string) (Member, error) {
	s, err := t.Struct(structure)
	if err != nil {
		return Member{}, err
	}
	return MemberOf(s, path...)
}

// MemberOf returns a member of a structure by its path.
func MemberOf(s *btf.Struct, path ...string) (Member, error) {
	m := Member{Type: s}
	for _, name := range path {
		at, ok := findMember(m.Type, name, 0)
		if !ok {
			return Member{}, fmt.Errorf("struct %s: %s: %w", s.Name, name, ErrNoMember)
		}
		m.Offset += at.Offset
		m.Type = at.Type
	}
	size, err := btf.Sizeof(m.Type)
	if err != nil {
		return Member{}, fmt.Errorf("struct %s: %w", s.Name, err)
	}
	m.Size = uint64(size)
	return m, nil
}

// maxNesting bounds anonymous structures within each other.
const maxNesting = 16

func findMember(in btf.Type, name string, depth int) (Member, bool) {
	if depth > maxNesting {
		return Member{}, false
	}
	var members []btf.Member
	switch s := btf.UnderlyingType(in).(type) {
	case *btf.Struct:
		members = s.Members
	case *btf.Union:
		members = s.Members
	default:
		return Member{}, false
	}
	for _, m := range members {
		if m.Name == name && m.BitfieldSize == 0 {
			return Member{Offset: uint64(m.Offset.Bytes()), Type: m.Type}, true
		}
		if m.Name != "" {
			continue
		}
		if inner, ok := findMember(m.Type, name, depth+1); ok {
			inner.Offset += uint64(m.Offset.Bytes())
			return inner, true
		}
	}
	return Member{}, false
}
