package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// testSlide is how far the kernel of these tests was moved.
const testSlide = 0x1c00000

// call is a CALL at an address of the test kernel; distances do not slide.
func call(at, target uint64) []byte { return branch(opCall, at, target) }
func jump(at, target uint64) []byte { return branch(opJump, at, target) }

// patched is one way in which memory may differ from the file.
type patched struct {
	file     []byte
	table    func(k *testKernel, at uint64)
	facts    PatchFacts
	explains [][]byte // allowed in memory
	refuses  [][]byte // not allowed
	note     string   // that the first of explains gives
}

func relativeSection(name string) func(k *testKernel, at uint64) {
	return func(k *testKernel, at uint64) { k.section(name, relative(k.next, at)) }
}

// altInstr adds an alternative whose replacement is given, in the layout of a
// kernel of the age that size stands for.
func altInstr(size int, length int, flags uint16, replacement []byte, inside ...string) func(k *testKernel, at uint64) {
	return func(k *testKernel, at uint64) {
		repl := k.section(".altinstr_replacement", replacement)
		entry := relative(k.next, at, repl)
		switch size {
		case 12:
			entry = append(entry, 5, byte(flags<<7), byte(length), byte(len(replacement)))
		case 13:
			entry = append(entry, 5, 0, byte(length), byte(len(replacement)), 0)
		case 14:
			entry = append(entry, 5, 0, byte(flags), 0, byte(length), byte(len(replacement)))
		}
		k.section(".altinstructions", entry)
		for _, name := range inside {
			k.section(name, relative(k.next, repl))
		}
	}
}

func replacementAt() uint64 { return testTables }

func patches() map[string]patched {
	at := fn(20)
	callThunk := call(at, fn(8))
	lfence := []byte{0x0f, 0xae, 0xe8}
	pvCall := append([]byte{0xff, 0x15}, relative(at+2, testVars+8-4)...) // call *pv_ops[1]
	pvOps := PatchFacts{Paravirt: map[uint64]uint64{testVars + 8 + testSlide: fn(1) + testSlide}}
	pvNop := PatchFacts{Paravirt: map[uint64]uint64{testVars + 8 + testSlide: fn(11) + testSlide}}
	pvIdentity := PatchFacts{Paravirt: map[uint64]uint64{testVars + 8 + testSlide: fn(12) + testSlide}}
	pvWild := PatchFacts{Paravirt: map[uint64]uint64{testVars + 8 + testSlide: fn(1) + 8 + testSlide}}
	paravirt := func(k *testKernel, at uint64) {
		entry := binary.LittleEndian.AppendUint64(nil, at)
		k.section(".parainstructions", append(entry, 1, 6, 0, 0, 0, 0, 0, 0))
	}
	key := uint64(testVars + 0x100)
	staticCall := func(k *testKernel, at uint64) {
		k.merged("__start_static_call_sites", "__stop_static_call_sites", relative(k.next, at, key))
	}
	trampoline := func(k *testKernel, at uint64) {
		k.symbols = append(k.symbols, Symbol{at, 't', "__SCT__other"}, Symbol{key, 'd', "__SCK__other"})
	}
	calls := func(function uint64) PatchFacts {
		return PatchFacts{StaticCalls: map[uint64]uint64{key + testSlide: function}}
	}
	gone := func(function uint64, is bool) PatchFacts {
		f := calls(function)
		f.Gone = map[uint64]bool{function: is}
		return f
	}
	label := func(k *testKernel, at uint64) {
		entry := append(relative(k.next, at, at+0x30), make([]byte, 8)...)
		k.merged("__start___jump_table", "__stop___jump_table", entry)
	}
	trace := func(k *testKernel, at uint64) {
		k.merged("__start_mcount_loc", "__stop_mcount_loc", binary.LittleEndian.AppendUint64(nil, at))
	}
	constant := func(k *testKernel, at uint64) {
		k.symbols = append(k.symbols, Symbol{testVars + 0x200, 'd', "dentry_hashtable"})
		k.merged("__start_runtime_ptr_dentry_hashtable", "__stop_runtime_ptr_dentry_hashtable", relative(k.next, at))
	}
	value := binary.LittleEndian.AppendUint64(nil, 0xffff888012340000)
	return map[string]patched{
		"return": {file: jump(at, fn(6)), table: relativeSection(".return_sites"),
			explains: [][]byte{{0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(7))},
			refuses:  [][]byte{jump(at, fn(0)), {0xc3, 0x90, 0xcc, 0xcc, 0xcc}, {0x90, 0x90, 0x90, 0x90, 0x90}}},
		"retpoline call": {file: callThunk, table: relativeSection(".retpoline_sites"),
			explains: [][]byte{{0xff, 0xd0, 0x0f, 0x1f, 0x00}, append(lfence[:3:3], 0xff, 0xd0), {0x2e, 0x2e, 0x2e, 0xff, 0xd0}},
			refuses:  [][]byte{{0xff, 0xd1, 0x0f, 0x1f, 0x00}, {0x2e, 0x2e, 0x2e, 0xff, 0xd1}, {0x2e, 0x2e, 0x41, 0xff, 0xd0}, {0xff, 0xe0, 0x0f, 0x1f, 0x00}, call(at, fn(0))}},
		"retpoline jump": {file: jump(at, fn(9)), table: relativeSection(".retpoline_sites"),
			explains: [][]byte{{0x41, 0xff, 0xe3, 0xcc, 0x90}, {0x41, 0xff, 0xe3, 0xcc, 0xcc}},
			refuses:  [][]byte{{0x2e, 0x2e, 0x41, 0xff, 0xe3}, {0x41, 0xff, 0xd3, 0xcc, 0x90}, {0x41, 0xff, 0xe3, 0xeb, 0x90}}},
		"retpoline jcc": {file: append([]byte{0x0f}, branch(0x84, at+1, fn(8))...), table: relativeSection(".retpoline_sites"),
			explains: [][]byte{{0x75, 0x04, 0xff, 0xe0, 0xcc, 0x90}},
			refuses:  [][]byte{{0x74, 0x04, 0xff, 0xe0, 0xcc, 0x90}}},
		"alternative, 6.1": {file: []byte{0x11, 0x22, 0x33, 0x90, 0x90}, table: altInstr(12, 5, 0, []byte{0xaa, 0xbb}),
			explains: [][]byte{{0xaa, 0xbb, 0x0f, 0x1f, 0x00}, {0xaa, 0xbb, 0x90, 0x90, 0x90}, {0x11, 0x22, 0x33, 0x66, 0x90}},
			refuses:  [][]byte{{0xaa, 0xbc, 0x0f, 0x1f, 0x00}, {0xaa, 0xbb, 0x0f, 0x1f, 0xc3}, {0xaa, 0xbb, 0x33, 0x90, 0x90}}},
		"alternative, 5.10": {file: []byte{0x11, 0x22, 0x33}, table: altInstr(13, 3, 0, nil),
			explains: [][]byte{{0x0f, 0x1f, 0x00}}, refuses: [][]byte{{0x0f, 0x1f, 0x01}, {0x0f, 0x0b, 0x90}}},
		"alternative with a call": {file: []byte{1, 2, 3, 4, 5}, table: altInstr(14, 5, 0, call(replacementAt(), fn(2))),
			explains: [][]byte{call(at, fn(2))}, refuses: [][]byte{call(at, fn(1)), call(replacementAt(), fn(2))}},
		"alternative with a jump that gets short": {file: []byte{1, 2, 3, 4, 5}, table: altInstr(12, 5, 0, jump(replacementAt(), at+0x20)),
			explains: [][]byte{{0xeb, 0x1e, 0x0f, 0x1f, 0x00}, {0xeb, 0x1e, 0xcc, 0xcc, 0xcc}, jump(at, at+0x20)},
			refuses:  [][]byte{{0xeb, 0x1f, 0x0f, 0x1f, 0x00}, jump(at, at+0x21)}},
		"alternative relative to RIP": {file: make([]byte, 8), table: altInstr(14, 8, 0,
			append([]byte{0x48, 0x8b, 0x05}, relative(replacementAt()+3, testVars-4)...)),
			explains: [][]byte{append(append([]byte{0x48, 0x8b, 0x05}, relative(at+3, testVars-4)...), 0x90)},
			refuses:  [][]byte{append(append([]byte{0x48, 0x8b, 0x05}, relative(at+3, testVars)...), 0x90)}},
		"alternative whose replacement is a retpoline": {file: make([]byte, 5),
			table:    altInstr(12, 5, 0, call(replacementAt(), fn(8)), ".retpoline_sites"),
			explains: [][]byte{{0xff, 0xd0, 0x0f, 0x1f, 0x00}, call(at, fn(8))}, refuses: [][]byte{{0xff, 0xd2, 0x0f, 0x1f, 0x00}}},
		"alternative whose replacement returns": {file: make([]byte, 8),
			table: func(k *testKernel, at uint64) {
				repl := k.section(".altinstr_replacement", append([]byte{0x48, 0x89, 0xd1}, jump(replacementAt()+3, fn(6))...))
				k.section(".altinstructions", append(relative(k.next, at, repl), 5, 0, 0, 0, 8, 8))
				k.section(".return_sites", relative(k.next, repl+3))
			},
			explains: [][]byte{append([]byte{0x48, 0x89, 0xd1}, jump(at+3, fn(7))...), {0x48, 0x89, 0xd1, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc}},
			refuses:  [][]byte{append([]byte{0x48, 0x89, 0xd1}, jump(at+3, fn(1))...)}},
		"direct call alternative": {file: pvCall, table: altInstr(14, 6, altDirectCall, call(replacementAt(), fn(0))), facts: pvOps,
			explains: [][]byte{append(call(at, fn(1)), 0x90)}, refuses: [][]byte{append(call(at, fn(2)), 0x90)}},
		"paravirt": {file: pvCall, table: paravirt, facts: pvOps,
			explains: [][]byte{append(call(at, fn(1)), 0x90)},
			refuses:  [][]byte{append(call(at, fn(2)), 0x90), append(call(at, fn(1)), 0xc3), {0x66, 0x0f, 0x1f, 0x44, 0, 0}}},
		"paravirt that does nothing": {file: pvCall, table: paravirt, facts: pvNop,
			explains: [][]byte{{0x66, 0x0f, 0x1f, 0x44, 0, 0}}, refuses: [][]byte{{0x66, 0x0f, 0x1f, 0x44, 0, 1}}},
		"paravirt identity": {file: pvCall, table: paravirt, facts: pvIdentity,
			explains: [][]byte{{0x48, 0x89, 0xf8, 0x0f, 0x1f, 0x00}}, refuses: [][]byte{{0x48, 0x89, 0xf9, 0x0f, 0x1f, 0x00}}},
		"paravirt into the middle of a function": {file: pvCall, table: paravirt, facts: pvWild,
			refuses: [][]byte{append(call(at, fn(1)+8), 0x90)}},
		"IBT seal": {file: []byte{0xf3, 0x0f, 0x1e, 0xfa}, table: relativeSection(".ibt_endbr_seal"),
			explains: [][]byte{{0x66, 0x0f, 0x1f, 0x00}}, refuses: [][]byte{{0x90, 0x90, 0x90, 0x90}}},
		"lock prefix": {file: []byte{0xf0, 0x0f, 0xb1}, table: relativeSection(".smp_locks"),
			explains: [][]byte{{0x3e, 0x0f, 0xb1}}, refuses: [][]byte{{0x90, 0x0f, 0xb1}, {0x3e, 0x0f, 0xb2}}},
		"static call": {file: call(at, fn(10)), table: staticCall, facts: calls(fn(2) + testSlide),
			explains: [][]byte{call(at, fn(2))},
			refuses:  [][]byte{call(at, fn(1)), jump(at, fn(2)), call(at, fn(2)+1), nop(5), {0x2e, 0x2e, 0x2e, 0x31, 0xc0}, {0xc3, 0xcc, 0xcc, 0xcc, 0xcc}}},
		"static call that is off": {file: call(at, fn(10)), table: staticCall, facts: calls(0),
			explains: [][]byte{nop(5)},
			refuses:  [][]byte{call(at, fn(1)), {0x2e, 0x2e, 0x2e, 0x31, 0xc0}, {0xc3, 0xcc, 0xcc, 0xcc, 0xcc}}},
		"static call that returns 0": {file: call(at, fn(10)), table: staticCall, facts: calls(fn(13) + testSlide),
			explains: [][]byte{{0x2e, 0x2e, 0x2e, 0x31, 0xc0}, {0x66, 0x66, 0x48, 0x31, 0xc0}, call(at, fn(13))},
			refuses:  [][]byte{call(at, fn(1)), nop(5)}},
		"static tail call that is off": {file: jump(at, fn(10)), table: staticCall, facts: calls(0),
			explains: [][]byte{{0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(6))}, refuses: [][]byte{jump(at, fn(1)), nop(5)}},
		"static tail call with a function": {file: jump(at, fn(10)), table: staticCall, facts: calls(fn(2) + testSlide),
			explains: [][]byte{jump(at, fn(2))}, refuses: [][]byte{{0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(6))}},
		"static call trampoline": {file: jump(at, fn(1)), table: trampoline, facts: calls(fn(2) + testSlide),
			explains: [][]byte{jump(at, fn(2))}, refuses: [][]byte{jump(at, fn(3)), {0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(6))}},
		"static call trampoline that is off": {file: jump(at, fn(1)), table: trampoline, facts: calls(0),
			explains: [][]byte{{0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(6))}, refuses: [][]byte{jump(at, fn(2))}},
		"static call into a module that was unloaded": {file: call(at, fn(10)), table: staticCall, facts: gone(0xffffffffc0003000, true),
			note:     "static call into a module that was unloaded: there is nothing to be executed",
			explains: [][]byte{call(at+testSlide, 0xffffffffc0003000)},
			refuses:  [][]byte{jump(at+testSlide, 0xffffffffc0003000), call(at+testSlide, 0xffffffffc0003001), nop(5)}},
		"static tail call into a module that was unloaded": {file: jump(at, fn(10)), table: staticCall, facts: gone(0xffffffffc0003000, true),
			explains: [][]byte{jump(at+testSlide, 0xffffffffc0003000)}, refuses: [][]byte{call(at+testSlide, 0xffffffffc0003000)}},
		"static call into memory of nobody": {file: call(at, fn(10)), table: staticCall, facts: gone(0xffffffffc0003000, false),
			refuses: [][]byte{call(at+testSlide, 0xffffffffc0003000)}},
		"static call into the middle of a function that is said to be gone": {file: call(at, fn(10)), table: staticCall, facts: gone(fn(2)+1+testSlide, true),
			refuses: [][]byte{call(at, fn(2)+1)}},
		"static call without its key": {file: call(at, fn(10)), table: staticCall,
			explains: [][]byte{call(at, fn(1)), nop(5)}, refuses: [][]byte{call(at, fn(1)+1), call(at, testVars)}},
		"static tail call": {file: jump(at, fn(10)), table: staticCall,
			explains: [][]byte{jump(at, fn(1)), {0xc3, 0xcc, 0xcc, 0xcc, 0xcc}, jump(at, fn(6))}, refuses: [][]byte{call(at, fn(1))}},
		"jump label": {file: nop(5), table: label,
			explains: [][]byte{jump(at, at+0x30)}, refuses: [][]byte{jump(at, at+0x31), call(at, at+0x30)}},
		"short jump label": {file: []byte{0xeb, 0x2e}, table: label,
			explains: [][]byte{{0x66, 0x90}}, refuses: [][]byte{{0xeb, 0x2d}, {0x90, 0x90}}},
		"ftrace off": {file: call(at, fn(3)), table: trace,
			explains: [][]byte{nop(5)}, refuses: [][]byte{call(at, fn(1)), {0x90, 0x90, 0x90, 0x90, 0x90}}},
		"ftrace on": {file: call(at, fn(3)), table: trace, note: "traced by ftrace: call to ftrace_caller",
			explains: [][]byte{call(at, fn(4))}, refuses: [][]byte{jump(at, fn(4))}},
		"ftrace trampoline": {file: call(at, fn(3)), table: trace, note: "traced by ftrace: call to the trampoline of fn1",
			facts:    PatchFacts{Trampolines: []Trampoline{{Start: 0xffffffffc0001000, Size: 100, Func: mem.Virt(fn(1) + testSlide)}}},
			explains: [][]byte{call(at+testSlide, 0xffffffffc0001000)}, refuses: [][]byte{call(at+testSlide, 0xffffffffc0001004)}},
		"runtime constant": {file: []byte{0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01}, table: constant,
			facts:    PatchFacts{Constants: map[string]uint64{"dentry_hashtable": 0xffff888012340000}},
			explains: [][]byte{value}, refuses: [][]byte{append([]byte{1}, value[1:]...)}},
		"kprobe": {file: []byte{0x55, 0x48}, table: func(*testKernel, uint64) {}, note: "breakpoint of a registered kprobe",
			facts:    PatchFacts{Kprobes: []Kprobe{{Addr: mem.Virt(at + testSlide), Opcode: 0x55}}},
			explains: [][]byte{{0xcc, 0x48}}, refuses: [][]byte{{0xcc, 0x49}, {0xcd, 0x48}}},
		"kprobe that lies about what it replaced": {file: []byte{0x55, 0x48}, table: func(*testKernel, uint64) {},
			facts:   PatchFacts{Kprobes: []Kprobe{{Addr: mem.Virt(at + testSlide), Opcode: 0x56}}},
			refuses: [][]byte{{0xcc, 0x48}}},
		"jump of an optimized kprobe": {file: []byte{1, 2, 3, 4, 5}, table: func(*testKernel, uint64) {}, note: "jump of an optimized kprobe to its slot",
			facts:    PatchFacts{Kprobes: []Kprobe{{Addr: mem.Virt(at + testSlide), Opcode: 1, Jump: 0xffffffffc0002000, Copied: []byte{2, 3, 4, 5}}}},
			explains: [][]byte{jump(at+testSlide, 0xffffffffc0002000), {0xcc}},
			refuses:  [][]byte{jump(at+testSlide, 0xffffffffc0002001), call(at+testSlide, 0xffffffffc0002000), jump(at+testSlide, 0xffffc90000123450)}},
		"jump of an optimized kprobe that lies about what it replaced": {file: []byte{1, 2, 3, 4, 5}, table: func(*testKernel, uint64) {},
			facts:   PatchFacts{Kprobes: []Kprobe{{Addr: mem.Virt(at + testSlide), Opcode: 1, Jump: 0xffffffffc0002000, Copied: []byte{2, 3, 4, 6}}}},
			refuses: [][]byte{jump(at+testSlide, 0xffffffffc0002000)}},
		"no site": {file: []byte{0x55, 0x48}, table: func(*testKernel, uint64) {}, refuses: [][]byte{{0x54, 0x48}, {0xcc, 0x48}}},
	}
}

// TestExplain puts every allowed and some forbidden encodings at each kind of
// patch site. A forbidden one, an attacker's, must be a finding with its place.
func TestExplain(t *testing.T) { explains(t, patches()) }

func explains(t *testing.T, all map[string]patched) {
	t.Helper()
	for name, p := range all {
		t.Run(name, func(t *testing.T) {
			at := fn(20)
			k := newTestKernel()
			k.code(at, p.file...)
			p.table(k, at)
			e := NewExpected(k.image(t), testSlide, p.facts)
			clean := bytes.Clone(e.kernel.want())
			off := int(at - testBase)
			explain := func(code []byte) *Explanation {
				seen := bytes.Clone(clean)
				copy(seen[off:], code)
				return e.Explain(e.Kernel(), []int{0, 1}, func(p int) []byte { return seen[p*4096 : (p+1)*4096] })
			}
			if x := explain(nil); x.Changed != 0 || len(x.Findings) != 0 {
				t.Fatalf("the file itself gives %+v", x)
			}
			for i, code := range p.explains {
				x := explain(code)
				if len(x.Findings) != 0 || x.Changed == 0 {
					t.Errorf("allowed % x gives %+v", code, x)
				}
				if i == 0 && p.note != "" && (len(x.Notes) != 1 || x.Notes[0].Explanation != p.note) {
					t.Errorf("% x gives notes %+v, want %q", code, x.Notes, p.note)
				}
			}
			for _, code := range p.refuses {
				x := explain(code)
				if len(x.Findings) == 0 {
					t.Errorf("forbidden % x was explained: %+v", code, x)
					continue
				}
				if f := x.Findings[0]; f.Addr < mem.Virt(at+testSlide) || f.Addr >= mem.Virt(at+testSlide)+mem.Virt(len(code)) || f.Explanation == "" {
					t.Errorf("% x gives the finding %+v", code, f)
				}
			}
		})
	}
}

// TestExplainAcrossPages has a patch site half in one page, half in the next.
func TestExplainAcrossPages(t *testing.T) {
	k := newTestKernel()
	at := uint64(testBase + 4094)
	k.code(at, jump(at, fn(6))...)
	relativeSection(".return_sites")(k, at)
	e := NewExpected(k.image(t), 0, PatchFacts{})
	seen := bytes.Clone(e.kernel.want())
	copy(seen[4094:], []byte{0xc3, 0xcc, 0xcc, 0xcc, 0xcc})
	both := func(p int) []byte { return seen[p*4096 : (p+1)*4096] }
	if x := e.Explain(e.Kernel(), []int{0, 1}, both); len(x.Findings)+len(x.Need) != 0 || x.Changed != 5 {
		t.Errorf("both pages: %+v", x)
	}
	first := func(p int) []byte {
		if p == 0 {
			return both(0)
		}
		return nil
	}
	if x := e.Explain(e.Kernel(), []int{0}, first); len(x.Findings) != 0 || fmt.Sprint(x.Need) != "[1]" {
		t.Errorf("first page alone: %+v", x)
	}
	seen[4096] = 0xcd
	for _, pages := range [][]int{{0}, {1}, {0, 1}} {
		x := e.Explain(e.Kernel(), pages, both)
		if len(x.Findings) != 1 || !x.Told[0] || !x.Told[1] {
			t.Errorf("pages %v: one finding that is about both expected: %+v", pages, x)
		}
	}
}

// TestDetectsChangedTailOfSiteAcrossPages: an attacker changes only the bytes of
// a patch site that lie in the second of its two pages, where a jump goes. The
// first page is the file's, or was accepted before.
func TestDetectsChangedTailOfSiteAcrossPages(t *testing.T) {
	tests := map[string]struct {
		first []byte // what the site was changed to by the kernel
		pages []int
	}{
		"both pages are new":         {nil, []int{0, 1}},
		"the first was seen before":  {jump(testBase+4094, fn(7)), []int{1}},
		"the first is not asked for": {nil, []int{1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := newTestKernel()
			at := uint64(testBase + 4094)
			k.code(at, jump(at, fn(6))...)
			relativeSection(".return_sites")(k, at)
			e := NewExpected(k.image(t), 0, PatchFacts{})
			seen := bytes.Clone(e.kernel.want())
			copy(seen[4094:], tt.first)
			both := func(p int) []byte { return seen[p*4096 : (p+1)*4096] }
			if x := e.Explain(e.Kernel(), []int{0, 1}, both); len(x.Findings) != 0 || len(x.Told) != 0 {
				t.Fatalf("what the kernel does: %+v", x)
			}
			copy(seen[4096:], []byte{0x66, 0x66, 0x66})
			x := e.Explain(e.Kernel(), tt.pages, both)
			if len(x.Findings) != 1 || !x.Told[1] {
				t.Errorf("changed target of a jump: %+v", x)
			}
			if n := e.Kernel().Neighbours(1); len(n) != 1 || n[0] != 0 {
				t.Errorf("page 1 depends on pages %v", n)
			}
		})
	}
}

func TestRodataCompare(t *testing.T) {
	k := newTestKernel()
	k.symbols = append(k.symbols, Symbol{testRodata + 0x7000, 'D', "__start_ro_after_init"}, Symbol{testRodata + 0x7100, 'D', "__end_ro_after_init"})
	e := NewExpected(k.image(t), testSlide, PatchFacts{})
	r := e.Rodata()
	if r.SetAtBoot.Size != 0x100 || r.Pages != 8 {
		t.Fatalf("rodata is %d pages, %+v set at boot", r.Pages, r.SetAtBoot)
	}
	last := bytes.Clone(r.want()[0x7000:])
	last[0x10], last[0xfff] = 1, 1
	if d := r.Compare(7, last); len(d) != 0 {
		t.Errorf("set at boot, and after the end: %+v", d)
	}
	last[0x100] = 1
	if d := r.Compare(7, last); len(d) != 1 || d[0].Addr != r.Start+0x7100 {
		t.Errorf("changed: %+v", d)
	}
}
