package kernel

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A kernel with one security module of two hooks.
const (
	hooksBase   = 0xffff_ffff_8000_0000 // physical 0, mapped by one page of 1 GiB
	hooksText   = hooksBase + 0x10_0000
	hooksArray  = hooksBase + 0x20_0000
	hooksTable  = hooksBase + 0x20_1000 // heads of lists, or slots of calls
	hooksKeys   = hooksBase + 0x20_3000 // of static calls, then static keys
	hooksJumps  = hooksBase + 0x20_4000
	hooksModule = hooksBase + 0x20_5000 // what says whose a hook is
)

func hookTypes(t *testing.T, calls bool) *Types {
	word := &btf.Int{Name: "long", Size: 8}
	of := func(name string, members ...string) *btf.Struct {
		s := &btf.Struct{Name: name, Size: uint32(8 * len(members))}
		for i, m := range members {
			s.Members = append(s.Members, btf.Member{Name: m, Type: word, Offset: btf.Bits(64 * i)})
		}
		return s
	}
	types := []btf.Type{of("lsm_static_call", "key", "trampoline", "hl", "active"), of("static_call_key", "func"), of("static_key", "enabled")}
	if calls {
		slots := &btf.Array{Type: types[0], Nelems: 2, Index: word}
		types = append(types, of("security_hook_list", "scalls", "hook", "lsmid"), &btf.Struct{Name: "lsm_static_calls_table", Size: 128,
			Members: []btf.Member{{Name: "file_open", Type: slots}, {Name: "locked_down", Type: slots, Offset: 64 * 8}}})
	} else {
		types = append(types, of("security_hook_list", "list", "pprev", "head", "hook", "lsm"))
	}
	return typesOf(t, types...)
}

type hookMemory struct{ memtest.Pages }

func (m hookMemory) put(at uint64, words ...uint64) {
	for i, w := range words {
		m.WriteU64(mem.Phys(at-hooksBase+8*uint64(i)), w)
	}
}

func hookKernel(t *testing.T, calls bool) (hookMemory, *Profile) {
	m := hookMemory{make(memtest.Pages)}
	m.WriteU64(0x1000+511*8, 0x2000|3)
	m.WriteU64(0x2000+510*8, 0x83)
	table := "security_hook_heads"
	m.put(hooksTable+0xff8, 0)
	m.put(hooksArray+0xff8, 0)
	if calls {
		table = "static_calls_table"
		m.put(hooksArray, hooksTable, hooksText+0x10, hooksModule, hooksTable+64, hooksText+0x20, hooksModule)
		for i := range uint64(2) {
			m.put(hooksTable+64*i, hooksKeys+8*i, 0, hooksArray+24*i, hooksKeys+0x100+8*i)
			m.put(hooksTable+64*i+32, hooksKeys+0x80, 0, 0, hooksKeys+0x180) // a slot that nobody has
			m.put(hooksKeys+8*i, hooksText+0x10+0x10*i)
			m.put(hooksKeys+0x100+8*i, 1)
		}
		m.put(hooksKeys+0x180, 0)
		m.put(hooksText, 0xe9) // the branch of the first, taken
		m.put(hooksText+0x40, 0x0000441f0f)
		m.jump(0, hooksText, hooksKeys+0x100)
		m.jump(1, hooksText+0x40, hooksKeys+0x108|1) // that of the second, not taken
		m.jump(2, hooksArray, hooksKeys+0x108)       // outside of text
		m.jump(3, hooksText+0x40, hooksKeys+0x180)   // of another
	} else {
		node := func(i uint64) uint64 { return hooksArray + 40*i }
		m.put(node(0), 0, hooksTable, hooksTable, hooksText+0x10, hooksModule)
		m.put(node(1), 0, hooksTable+8, hooksTable+8, hooksText+0x20, hooksModule)
		m.put(hooksTable, node(0), node(1))
	}
	symbol := func(at uint64, name string) Symbol { return Symbol{Addr: at, Kind: 'd', Name: name} }
	symbols := NewSymbols([]Symbol{symbol(hooksText, "_stext"), symbol(hooksText+0x1000, "_etext"), symbol(hooksArray, "__start_ro_after_init"),
		symbol(hooksArray, "one_hooks"), symbol(hooksArray+0xf00, "behind"), symbol(hooksTable, table), symbol(hooksTable+128, "behind_table"),
		symbol(hooksTable+0x1000, "__end_ro_after_init"), symbol(hooksJumps, "__start___jump_table"), symbol(hooksJumps+64, "__stop___jump_table")})
	return m, &Profile{Space: paging.SpaceAt(m, 0x1000, 4), Symbols: symbols, Types: hookTypes(t, calls), Base: hooksBase, End: hooksBase + 1<<30}
}

// jump writes an entry of the table of jump labels.
func (m hookMemory) jump(i, site, key uint64) {
	at := hooksJumps + 16*i
	b := binary.LittleEndian.AppendUint32(nil, uint32(site-at))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, key-(at+8))
	m.Write(mem.Phys(at-hooksBase), b...)
}

// An attacker has the kernel no longer ask a security module.
func TestDetectsSilentHooks(t *testing.T) {
	for name, tt := range map[string]struct {
		calls      bool
		change     func(hookMemory)
		registered int
		why        string // of the one that is silent
	}{
		"lists":            {registered: 2},
		"off its list":     {change: func(m hookMemory) { m.put(hooksTable, 0) }, registered: 2, why: "not on the list"},
		"another in place": {change: func(m hookMemory) { m.put(hooksTable, hooksArray+40) }, registered: 2, why: "not on the list"},
		"a list in a ring": {change: func(m hookMemory) { m.put(hooksArray, hooksArray) }, registered: 2},
		"never registered": {change: func(m hookMemory) { m.put(hooksArray+32, 0) }, registered: 1},
		"calls":            {calls: true, registered: 2},
		"a key that is off": {calls: true, change: func(m hookMemory) { m.put(hooksKeys+0x100, 0) },
			registered: 2, why: "static key is off"},
		"a key below zero": {calls: true, change: func(m hookMemory) { m.put(hooksKeys+0x100, 1<<32-1) },
			registered: 2, why: "static key is off"},
		"another function": {calls: true, change: func(m hookMemory) { m.put(hooksKeys, hooksText+0x30) },
			registered: 2, why: "its call goes to 0xffffffff80100030"},
		"another hook's slot": {calls: true, change: func(m hookMemory) {
			m.put(hooksTable+16, 0)
			m.put(hooksTable+96, hooksKeys, 0, hooksArray, hooksKeys+0x100)
		}, registered: 2, why: "another hook's"},
		"its own second slot": {calls: true, change: func(m hookMemory) {
			m.put(hooksTable+16, 0)
			m.put(hooksTable+32, hooksKeys, 0, hooksArray, hooksKeys+0x100)
		}, registered: 2},
		"no slot": {calls: true, change: func(m hookMemory) { m.put(hooksTable+16, 0) }, registered: 2, why: "no call has it"},
		"a branch put back": {calls: true, change: func(m hookMemory) { m.put(hooksText, 0x0000441f0f) },
			registered: 2, why: "_stext+0x0 leaves it out"},
		"a branch taken, of the other kind": {calls: true, change: func(m hookMemory) { m.put(hooksText+0x40, 0xeb) },
			registered: 2, why: "_stext+0x40 leaves it out"},
	} {
		t.Run(name, func(t *testing.T) {
			m, p := hookKernel(t, tt.calls)
			if tt.change != nil {
				tt.change(m)
			}
			got, layout, err := p.SecurityHooks()
			if err != nil || len(got) != 1 || got[0].Count != 2 || got[0].Registered != tt.registered || layout.Size == 0 {
				t.Fatalf("%+v, %+v, %v", got, layout, err)
			}
			silent := got[0].Silent
			if tt.why == "" && len(silent) != 0 || tt.why != "" && (len(silent) != 1 || !strings.Contains(silent[0].Why, tt.why)) {
				t.Errorf("%+v, want %q", silent, tt.why)
			}
		})
	}
}

// The branches of keys that are on are listed, also where there are none.
func TestBranchesOfHooks(t *testing.T) {
	m, p := hookKernel(t, true)
	m.put(hooksTable+24, hooksKeys+0x110) // another key, which is on
	m.put(hooksKeys+0x110, 1)
	_, layout, err := p.SecurityHooks()
	two := layout.Jumps[hooksKeys+0x108]
	none, ok := layout.Jumps[hooksKeys+0x110]
	if err != nil || len(layout.Jumps) != 2 || len(two) != 1 || two[0] != (JumpSite{hooksText + 0x40, true}) || !ok || len(none) != 0 {
		t.Errorf("%+v, %v", layout.Jumps, err)
	}
}

// What a hostile kernel says of its hooks ends as an error.
func TestHostileHooks(t *testing.T) {
	for name, change := range map[string]func(hookMemory, *Profile){
		"a list to nowhere": func(m hookMemory, p *Profile) { m.put(hooksTable, 0x1234) },
		"a list without end": func(m hookMemory, p *Profile) {
			for i := range uint64(maxHookList + 2) {
				m.put(hooksJumps+8*i, hooksJumps+8*i+8)
			}
			m.put(hooksTable, hooksJumps)
		},
		"no types": func(m hookMemory, p *Profile) { p.Types = queuesTypes(t) },
	} {
		m, p := hookKernel(t, false)
		change(m, p)
		if got, _, err := p.SecurityHooks(); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	m, p := hookKernel(t, true)
	m.put(hooksTable+24, 0x1234) // a key nowhere
	if got, _, err := p.SecurityHooks(); err == nil {
		t.Errorf("a key nowhere: %+v", got)
	}
}
