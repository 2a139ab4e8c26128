package linux

import (
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// BTF gives the types of a kernel from its BTF.
func BTF(spec *btf.Spec) trap.Types { return btfTypes{spec} }

type btfTypes struct{ spec *btf.Spec }

// maxNesting bounds the anonymous members looked into, and typedefs followed.
const maxNesting = 16

// Field implements trap.Types.
func (t btfTypes) Field(structure, path string) (uint64, bool) {
	var s *btf.Struct
	if err := t.spec.TypeByName(structure, &s); err != nil {
		return 0, false
	}
	var typ btf.Type = s
	var offset uint64
	for name := range strings.SplitSeq(path, ".") {
		m, at, ok := member(typ, name, maxNesting)
		if !ok {
			return 0, false
		}
		offset += at
		typ = m.Type
	}
	return offset, true
}

// member finds a member of a structure or union by name, through anonymous
// ones. Bit fields have no byte offset.
func member(typ btf.Type, name string, depth int) (btf.Member, uint64, bool) {
	var members []btf.Member
	switch s := btf.UnderlyingType(typ).(type) {
	case *btf.Struct:
		members = s.Members
	case *btf.Union:
		members = s.Members
	}
	for _, m := range members {
		at := uint64(m.Offset.Bytes())
		if m.Name == name && m.BitfieldSize == 0 {
			return m, at, true
		}
		if m.Name == "" && depth > 0 {
			if inner, off, ok := member(m.Type, name, depth-1); ok {
				return inner, at + off, true
			}
		}
	}
	return btf.Member{}, 0, false
}

// Param implements trap.Types.
func (t btfTypes) Param(function, name string) (int, bool) {
	var f *btf.Func
	if err := t.spec.TypeByName(function, &f); err != nil {
		return 0, false
	}
	proto, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return 0, false
	}
	for i, p := range proto.Params {
		if p.Name == name {
			return i, true
		}
	}
	return 0, false
}
