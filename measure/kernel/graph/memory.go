package graph

import (
	"cmp"
	"slices"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// areas tells what lies at an address.
type areas struct {
	perCPUStart, perCPUEnd uint64 // where pointers to per-CPU memory lie
	profile                *kernel.Profile
	slabs                  *allocator // nil if nothing is known of it

	texts              [][2]uint64 // of the kernel and its modules, by address
	initStart, initEnd uint64      // freed after boot
	within             map[holdsKey]bool
	contradicted       int64 // pointers to what the allocator says is something else
}

type holdsKey struct {
	outer, inner *Type
	at           uint64
}

func newAreas(p *kernel.Profile, slabs *allocator, modules []kernel.LoadedModule) *areas {
	m := &areas{profile: p, slabs: slabs, within: make(map[holdsKey]bool)}
	var text [2]uint64
	for name, into := range map[string]*uint64{
		"_stext": &text[0], "_etext": &text[1], "__init_begin": &m.initStart, "__init_end": &m.initEnd,
	} {
		at, _ := p.Symbol(name)
		*into = uint64(at)
	}
	m.texts = append(m.texts, text)
	for i := range modules {
		for _, a := range modules[i].Areas {
			if a.Kind == kernel.AreaText {
				m.texts = append(m.texts, [2]uint64{uint64(a.Start), uint64(a.End())})
			}
		}
	}
	slices.SortFunc(m.texts, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	m.perCPU()
	return m
}

// text reports whether an address lies in the text of the kernel or a module.
func (m *areas) text(at uint64) bool {
	if at < m.texts[0][0] || at >= m.texts[len(m.texts)-1][1] {
		return false
	}
	i, found := slices.BinarySearchFunc(m.texts, at, func(t [2]uint64, at uint64) int { return cmp.Compare(t[0], at) })
	return found || i > 0 && at < m.texts[i-1][1]
}

// perCPU finds where pointers to per-CPU memory lie. Up to 6.14 they are no
// addresses of the kernel; since then they are what the variable's address would
// be in the image (arch/x86/kernel/vmlinux.lds.S), whatever lies there.
func (m *areas) perCPU() {
	start, ok1 := m.profile.Symbol("__per_cpu_start")
	unit, ok2 := m.profile.Symbol("pcpu_unit_size") // mm/percpu.c
	if !ok1 || !ok2 || !high(uint64(start)) {
		return
	}
	if size, err := m.profile.Space.U32(unit); err == nil {
		m.perCPUStart, m.perCPUEnd = uint64(start), uint64(start)+uint64(size)
	}
}

// lies says which object lies at an address that a pointer to t has: where it
// starts and what it is. Where the allocator knows it as a part of something
// larger, it is that; else it is what the pointer says. t is nil for a void
// pointer, which only the allocator can tell. ok is false where no object can be.
func (m *areas) lies(at uint64, t *Type) (uint64, *Type, bool) {
	if m.nothing(at) {
		return 0, nil, false
	}
	if m.slabs == nil {
		return at, t, t != nil
	}
	s := m.slabs.find(at)
	if s == nil || at < s.start {
		return at, t, t != nil
	}
	start, c := s.slot(at), s.cache
	// Where the allocator put several caches of one size together, an object may be
	// of another cache's type, which begins like this one's: a socket of AF_UNIX
	// lies in the cache called PING.
	if c.typ != nil && (!c.merged && (t == nil || m.has(c.typ, at-start, t)) || c.typ == t && at == start) {
		return start, c.typ, true
	}
	if t != nil && (c.typ != nil && !c.merged || at-start+t.end > c.size-c.pad) {
		m.contradicted++
	}
	return at, t, t != nil
}

// nothing reports whether no object can lie at an address.
func (m *areas) nothing(at uint64) bool {
	return m.text(at) || m.freedAfterBoot(at) || at >= m.perCPUStart && at < m.perCPUEnd
}

// room is how many bytes there are from an address to the end of the object of
// the allocator that it lies in, if it lies in one.
func (m *areas) room(at uint64) uint64 {
	if m.slabs == nil {
		return 1 << 63
	}
	s := m.slabs.find(at)
	if s == nil || at < s.start {
		return 1 << 63
	}
	end := s.slot(at) + s.cache.size - s.cache.pad // the next one's red zone
	return max(end, at) - at
}

// has reports whether outer has a structure of type inner at an offset.
func (m *areas) has(outer *Type, at uint64, inner *Type) bool {
	if outer == inner && at == 0 {
		return true
	}
	key := holdsKey{outer, inner, at}
	known, ok := m.within[key]
	if !ok {
		known = embeds(outer.source, at, inner, 0)
		m.within[key] = known
	}
	return known
}

func embeds(outer btf.Type, at uint64, inner *Type, depth int) bool {
	if depth > maxNesting {
		return false
	}
	outer = bare(outer)
	var members []btf.Member
	switch t := outer.(type) {
	case *btf.Struct:
		if at == 0 && t.Name == inner.Name && uint64(t.Size) == inner.Size {
			return true
		}
		members = t.Members
	case *btf.Union:
		members = t.Members
	case *btf.Array:
		size, err := btf.Sizeof(t.Type)
		return err == nil && size > 0 && at/uint64(size) < uint64(t.Nelems) && embeds(t.Type, at%uint64(size), inner, depth+1)
	default:
		return false
	}
	for _, member := range members {
		offset := uint64(member.Offset.Bytes())
		size, err := btf.Sizeof(member.Type)
		if err == nil && at >= offset && at-offset < uint64(size) && embeds(member.Type, at-offset, inner, depth+1) {
			return true
		}
	}
	return false
}
