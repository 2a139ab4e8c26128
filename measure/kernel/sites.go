package kernel

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// siteKind is why the kernel may change some of its text. The order is that in
// which a kernel patches, so that of two kinds at one place the later wins.
type siteKind uint8

const (
	siteParavirt    siteKind = iota // .parainstructions, to 6.7
	siteRetpoline                   // .retpoline_sites, from 5.16
	siteReturn                      // .return_sites, from 5.19
	siteAlternative                 // .altinstructions
	siteCall                        // .call_sites, from 6.2 on where calls are counted
	siteSeal                        // .ibt_endbr_seal, from 5.18
	siteLock                        // .smp_locks
	siteConstant                    // runtime_ptr_*, runtime_shift_*, from 6.11
	siteStaticCall                  // __start_static_call_sites, from 5.10
	siteTrampoline                  // __SCT__*, from 5.10
	siteJump                        // __start___jump_table
	siteTrace                       // __start_mcount_loc
	siteTracer                      // ftrace_call, ftrace_regs_call, ftrace_graph_call
	siteKinds
)

var siteNames = [...]string{"paravirt call", "indirect branch", "return", "alternative", "call", "IBT seal", "lock prefix",
	"runtime constant", "static call", "static call trampoline", "jump label", "ftrace location", "call of ftrace's user"}

func (k siteKind) String() string { return siteNames[k] }

// site is a place in the text that the kernel may patch.
type site struct {
	off  uint32 // from the start of the text
	size uint16 // bytes; 0 if the instruction there is not one that belongs
	kind siteKind
	arg  uint32 // depends on the kind
}

func (s site) end() uint32 { return s.off + uint32(s.size) }

// alternative is an entry of .altinstructions.
type alternative struct {
	replacement uint64 // link-time address
	size        uint8  // of the replacement
	feature     uint16 // X86_FEATURE_*
	flags       uint16 // ALT_FLAG_*
}

// Flags of an alternative.
const (
	altNot        = 1 // applies where the CPU does not have the feature
	altDirectCall = 2 // the replacement calls what pv_ops has, from 6.8 on
)

// object is what a kernel or a module has of text and patch sites, at the
// addresses it was linked for or, for a module, loaded at.
type object struct {
	text         span
	replacements span // .altinstr_replacement
	sites        []site
	inside       []site // sites in the replacements
	alts         []alternative
	targets      []uint64 // of jump labels
	keys         []uint64 // of static calls
	constants    []string // names of runtime constants
	first        []int32  // per page of the text, the first site to look at
}

// tables are the raw tables to make sites from; absent ones are empty.
type tables struct {
	alternatives, paravirt, retpolines, returns, seals, locks span
	called                                                    span
	calls, jumps, trace                                       span
	constants                                                 []span
	trampolines, tracers                                      []uint64
}

// maxSites bounds the sites of one object: Debian's 6.12 has 520,000.
const maxSites = 4 << 20

// build makes the sites. Entries for text that is not in the object, such as
// init text, are left out; an instruction at a site that is not of the site's
// kind makes a site of no size, so that nothing is explained by it.
func (o *object) build(t *tables) error {
	if err := o.addAlternatives(t.alternatives); err != nil {
		return err
	}
	o.addParavirt(t.paravirt)
	o.addRelative(t.retpolines, siteRetpoline)
	o.addRelative(t.returns, siteReturn)
	o.addRelative(t.called, siteCall)
	o.addRelative(t.seals, siteSeal)
	o.addRelative(t.locks, siteLock)
	o.addConstants(t.constants)
	o.addStaticCalls(t.calls)
	for _, at := range t.trampolines {
		o.add(at, siteTrampoline, 0)
	}
	for _, at := range t.tracers {
		o.add(at, siteTracer, 0)
	}
	o.addJumps(t.jumps)
	for c := bin.Little(t.trace.data); c.Len() >= 8; {
		o.add(c.U64(), siteTrace, 0)
	}
	if len(o.sites) > maxSites {
		return fmt.Errorf("%w: over %d patch sites", ErrTooLarge, maxSites)
	}
	bySite := func(a, b site) int {
		if a.off != b.off {
			return int(int64(a.off) - int64(b.off))
		}
		return int(a.kind) - int(b.kind)
	}
	slices.SortStableFunc(o.sites, bySite)
	slices.SortStableFunc(o.inside, bySite)
	o.index()
	return nil
}

// add records a site of the length of the instruction found there.
func (o *object) add(at uint64, kind siteKind, arg uint32) {
	o.addSized(at, kind, arg, -1)
}

func (o *object) addSized(at uint64, kind siteKind, arg uint32, size int) {
	where, list := o.text, &o.sites
	if !where.holds(at, 1) {
		if where, list = o.replacements, &o.inside; !where.holds(at, 1) {
			return
		}
	}
	off := at - where.addr
	if size < 0 {
		size = kind.length(where.data[off:])
	}
	if uint64(size) > uint64(len(where.data))-off {
		size = 0
	}
	*list = append(*list, site{uint32(off), uint16(size), kind, arg})
}

// length is the length of the instruction that a site of this kind has in the
// file, 0 if what is there is something else.
func (k siteKind) length(code []byte) int {
	if len(code) < 8 {
		code = append(slices.Clone(code), make([]byte, 8)...)
	}
	call, jump := code[0] == 0xe8, code[0] == 0xe9
	jcc := code[0] == 0x0f && code[1]&0xf0 == 0x80
	switch k {
	case siteLock:
		if code[0] == 0xf0 {
			return 1
		}
	case siteCall:
		if call {
			return 5
		}
	case siteSeal:
		return 4
	case siteReturn:
		if jump {
			return 5
		} else if code[0] == 0xc3 {
			return 1
		}
	case siteRetpoline:
		switch {
		case call || jump:
			return 5
		case jcc || code[0] == 0x2e && (code[1] == 0xe8 || code[1] == 0xe9):
			return 6
		}
	case siteStaticCall:
		if call || jump {
			return 5
		} else if jcc {
			return 6
		}
	case siteTrampoline:
		if jump || code[0] == 0xc3 {
			return 5
		}
	case siteJump:
		if code[0] == 0xeb || nopLength(code) == 2 {
			return 2
		} else if jump || nopLength(code) == 5 {
			return 5
		}
	case siteTrace, siteTracer:
		if call || jump || nopLength(code) == 5 {
			return 5
		}
	}
	return 0
}

// addAlternatives reads struct alt_instr, whose size tells the kernel's age: 13
// bytes with padlen to 5.12, 12 without to 6.2, 14 with flags from 6.3 on
// (arch/x86/include/asm/alternative.h). The size that fits every entry is the
// right one.
func (o *object) addAlternatives(t span) error {
	if len(t.data) == 0 {
		return nil
	}
	for _, size := range []int{12, 14, 13} {
		if len(t.data)%size == 0 && o.alternativesOf(t, size, nil) {
			o.alternativesOf(t, size, func(at uint64, length int, a alternative) {
				o.addSized(at, siteAlternative, uint32(len(o.alts)), length)
				o.alts = append(o.alts, a)
			})
			return nil
		}
	}
	return fmt.Errorf("%w: .altinstructions has entries of an unknown layout", ErrFormat)
}

func (o *object) alternativesOf(t span, size int, found func(at uint64, length int, a alternative)) bool {
	for off := 0; off < len(t.data); off += size {
		c := bin.Little(t.data[off : off+size])
		entry := t.addr + uint64(off)
		at := entry + uint64(int64(int32(c.U32())))
		a := alternative{replacement: entry + 4 + uint64(int64(int32(c.U32()))), feature: c.U16()}
		if size == 14 {
			a.flags = c.U16()
		} else if a.feature&(1<<15) != 0 { // ALTINSTR_FLAG_INV, from 5.13 on
			a.feature, a.flags = a.feature&^(1<<15), altNot
		}
		length := int(c.U8())
		a.size = c.U8()
		if length == 0 || int(a.size) > length || !o.replacements.holds(a.replacement, int(a.size)) && a.size > 0 {
			return false
		}
		if found != nil {
			found(at, length, a)
		}
	}
	return true
}

// addParavirt reads struct paravirt_patch_site: u64 instruction, u8 type, u8
// length, padding but for the last (arch/x86/include/asm/paravirt_types.h).
func (o *object) addParavirt(t span) {
	for c := bin.Little(t.data); c.Len() >= 10; {
		at, kind, length := c.U64(), c.U8(), c.U8()
		c.Skip(min(c.Len(), 6))
		o.addSized(at, siteParavirt, uint32(kind), int(length))
	}
}

// addRelative reads a table of 32-bit distances from each entry to a site.
func (o *object) addRelative(t span, kind siteKind) {
	for c := bin.Little(t.data); c.Len() >= 4; {
		entry := t.addr + uint64(c.Offset())
		o.add(entry+uint64(int64(int32(c.U32()))), kind, 0)
	}
}

// addConstants reads the tables of runtime constants, one for each
// (arch/x86/include/asm/runtime-const.h).
func (o *object) addConstants(list []span) {
	for _, t := range list {
		size := 8
		if len(t.name) > 14 && t.name[:14] == "runtime_shift_" {
			size = 1
		}
		for c := bin.Little(t.data); c.Len() >= 4; {
			entry := t.addr + uint64(c.Offset())
			o.addSized(entry+uint64(int64(int32(c.U32()))), siteConstant, uint32(len(o.constants)), size)
		}
		o.constants = append(o.constants, t.name)
	}
}

// addStaticCalls reads struct static_call_site: distance to the instruction,
// distance to the key with two flag bits (include/linux/static_call_types.h).
func (o *object) addStaticCalls(t span) {
	for c := bin.Little(t.data); c.Len() >= 8; {
		entry := t.addr + uint64(c.Offset())
		at := entry + uint64(int64(int32(c.U32())))
		key := (entry + 4 + uint64(int64(int32(c.U32())))) &^ 3
		o.add(at, siteStaticCall, uint32(len(o.keys)))
		o.keys = append(o.keys, key)
	}
}

// addJumps reads struct jump_entry: distance to the instruction, distance to
// where it jumps when on, 64-bit distance to the key
// (include/linux/jump_label.h, CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE).
func (o *object) addJumps(t span) {
	for c := bin.Little(t.data); c.Len() >= 16; {
		entry := t.addr + uint64(c.Offset())
		at := entry + uint64(int64(int32(c.U32())))
		target := entry + 4 + uint64(int64(int32(c.U32())))
		c.Skip(8)
		o.add(at, siteJump, uint32(len(o.targets)))
		o.targets = append(o.targets, target)
	}
}

// index fills in first: the first site of the first group of overlapping sites
// that reaches into each page.
func (o *object) index() {
	o.first = make([]int32, (len(o.text.data)+4095)/4096)
	page := 0
	for i := 0; i < len(o.sites); {
		next, end := o.group(i)
		for ; page < len(o.first) && uint32(page)*4096 < end; page++ {
			o.first[page] = int32(i)
		}
		i = next
	}
	for ; page < len(o.first); page++ {
		o.first[page] = int32(len(o.sites))
	}
}

// group returns the end of the group of overlapping sites that starts with
// site i: the index of the next group and the offset where this one ends.
func (o *object) group(i int) (next int, end uint32) { return groupOf(o.sites, i) }

func groupOf(sites []site, i int) (next int, end uint32) {
	end = sites[i].end()
	for next = i + 1; next < len(sites) && (sites[next].off < end || sites[next].off == sites[i].off); next++ {
		end = max(end, sites[next].end())
	}
	return next, end
}
