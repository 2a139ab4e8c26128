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
	paravirt, end := false, uint32(page+1)*mem.PageSize
	for i := int(t.obj.first[page]); i < len(t.obj.sites) && t.obj.sites[i].off < end; i++ {
		switch s := t.obj.sites[i]; s.kind {
		case siteStaticCall:
			out = binary.LittleEndian.AppendUint64(out, e.facts.StaticCalls[e.staticKey(t.obj.keys[s.arg]+t.slide)])
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
