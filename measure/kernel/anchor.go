package kernel

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Anchor returns the facts that decide how a page of text may be patched, as
// bytes that are equal only if the facts are: a page that was explained once
// stays explained while its bytes and its anchor stay.
func (e *Expected) Anchor(t *Text, page int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(t.Start)+uint64(page)*mem.PageSize)
	if page >= len(t.obj.first) {
		return out
	}
	if e.facts.CallDepth {
		out = append(out, 1)
	}
	paravirt, end := false, uint32(page+1)*mem.PageSize
	for i := int(t.obj.first[page]); i < len(t.obj.sites) && t.obj.sites[i].off < end; i++ {
		switch s := t.obj.sites[i]; s.kind {
		case siteStaticCall, siteTrampoline:
			function, ok := e.facts.StaticCalls[e.keyOf(t, s)]
			if !ok {
				function = ^uint64(0) // not known is not the same as none
			}
			out = binary.LittleEndian.AppendUint64(out, function)
		case siteParavirt:
			paravirt = true
		case siteAlternative:
			paravirt = paravirt || t.obj.alts[s.arg].flags&altDirectCall != 0
		case siteConstant:
			out = binary.LittleEndian.AppendUint64(out, e.facts.Constants[constantName(t.obj.constants[s.arg])])
		}
	}
	if paravirt {
		for _, at := range slices.Sorted(maps.Keys(e.facts.Paravirt)) {
			out = binary.LittleEndian.AppendUint64(out, at)
			out = binary.LittleEndian.AppendUint64(out, e.facts.Paravirt[at])
		}
	}
	return out
}

// Want returns what the file has for a page of the text.
func (t *Text) Want(page int) []byte {
	return t.want()[page*mem.PageSize : (page+1)*mem.PageSize]
}

// Neighbours returns the other pages that the patch sites of a page reach into:
// what may be in the page depends on what is in those.
func (t *Text) Neighbours(page int) []int {
	if page >= len(t.obj.first) {
		return nil
	}
	var out []int
	for i := int(t.obj.first[page]); i < len(t.obj.sites) && t.obj.sites[i].off < uint32(page+1)*mem.PageSize; {
		next, end := t.obj.group(i)
		start := t.obj.sites[i].off
		for p := int(start / mem.PageSize); uint32(p)*mem.PageSize < end; p++ {
			if p != page && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		i = next
	}
	return out
}

// Leaves reports whether what may be in a page of text depends on where modules
// are: all pages of modules, which refer to others, and those of the kernel with
// calls that go to modules or may do so.
func (e *Expected) Leaves(t *Text, page int) bool {
	if t != e.kernel || page >= len(t.obj.first) {
		return true
	}
	for i := int(t.obj.first[page]); i < len(t.obj.sites) && t.obj.sites[i].off < uint32(page+1)*mem.PageSize; i++ {
		switch s := t.obj.sites[i]; s.kind {
		case siteStaticCall, siteTrampoline:
			if function, ok := e.facts.StaticCalls[e.keyOf(t, s)]; !ok || e.outside(function) {
				return true
			}
		case siteParavirt:
			if e.paravirtLeaves() {
				return true
			}
		case siteAlternative:
			if t.obj.alts[s.arg].flags&altDirectCall != 0 && e.paravirtLeaves() {
				return true
			}
		}
	}
	return false
}

// outside reports whether a function, if there is one, is not the kernel's own.
func (e *Expected) outside(function uint64) bool { return function != 0 && !e.kernel.holds(function) }

// paravirtLeaves reports whether pv_ops has functions of modules, or may have.
func (e *Expected) paravirtLeaves() bool {
	for _, function := range e.facts.Paravirt {
		if e.outside(function) {
			return true
		}
	}
	return len(e.facts.Paravirt) == 0
}

// Settled reports whether what the explanation of a page says depends on that
// page and its anchor alone. It does not where a runtime constant has no fact:
// such a page has to be explained together with the others each time.
func (e *Expected) Settled(t *Text, page int) bool {
	if page >= len(t.obj.first) {
		return true
	}
	for i := int(t.obj.first[page]); i < len(t.obj.sites) && t.obj.sites[i].off < uint32(page+1)*mem.PageSize; i++ {
		if s := t.obj.sites[i]; s.kind == siteConstant {
			if _, ok := e.facts.Constants[constantName(t.obj.constants[s.arg])]; !ok {
				return false
			}
		}
	}
	return true
}
