package kernel

import (
	"bytes"
	"slices"
	"testing"
)

// counterAt is the instruction that counts calls, at an address of the test kernel:
// SAR $5 of a variable of the CPU. Distances do not slide.
func counterAt(at uint64) []byte {
	return append(append([]byte{0x65, 0x48, 0xc1, 0x3d}, relative(at+4, testVars+0x300-5)...), 5)
}

// countsCalls gives the test kernel the instruction, and functions 2 and 10 room for it.
func countsCalls(k *testKernel) {
	k.merged("skl_call_thunk_template", "skl_call_thunk_tail", counterAt(k.next))
	for _, i := range []int{2, 10} {
		k.code(fn(i)-9, bytes.Repeat([]byte{opNop}, 9)...)
	}
}

// counted are the patches of a kernel that counts calls.
func counted() map[string]patched {
	at := fn(20)
	facts := PatchFacts{CallDepth: true}
	with := func(then ...func(k *testKernel, at uint64)) func(k *testKernel, at uint64) {
		return func(k *testKernel, at uint64) {
			countsCalls(k)
			for _, f := range then {
				f(k, at)
			}
		}
	}
	called := relativeSection(".call_sites")
	padding := func(k *testKernel, at uint64) {
		k.symbols = append(k.symbols, Symbol{at + 9, 't', "behind"})
	}
	thunks := func(k *testKernel, at uint64) {
		k.symbols = append(k.symbols, Symbol{fn(30), 't', "__x86_indirect_call_thunk_rax"}, Symbol{fn(31), 't', "__x86_indirect_jump_thunk_rax"})
		relativeSection(".retpoline_sites")(k, at)
	}
	key := uint64(testVars + 0x100)
	static := func(function uint64) PatchFacts {
		return PatchFacts{CallDepth: true, StaticCalls: map[uint64]uint64{key + testSlide: function}, Gone: map[uint64]bool{0xffffffffc0003010: true}}
	}
	staticCall := func(k *testKernel, at uint64) {
		k.merged("__start_static_call_sites", "__stop_static_call_sites", relative(k.next, at, key))
	}
	nine := bytes.Repeat([]byte{opNop}, 9)
	other := counterAt(at)
	other[8] = 4
	return map[string]patched{
		"call": {file: call(at, fn(2)), table: with(called), facts: facts,
			explains: [][]byte{call(at, fn(2)-9)},
			refuses:  [][]byte{call(at, fn(2)-8), call(at, fn(10)-9), jump(at, fn(2)-9), call(at, fn(2)+9)}},
		"call of a function without room": {file: call(at, fn(1)), table: with(called), facts: facts, refuses: [][]byte{call(at, fn(1)-9)}},
		"call that is on no list":         {file: call(at, fn(2)), table: with(), facts: facts, refuses: [][]byte{call(at, fn(2)-9)}},
		"call, nothing counts":            {file: call(at, fn(2)), table: with(called), refuses: [][]byte{call(at, fn(2)-9)}},
		"padding": {file: nine, table: with(padding), facts: facts,
			explains: [][]byte{counterAt(at)}, refuses: [][]byte{other, counterAt(at + 1), counterAt(at)[:8]}},
		"padding, nothing counts":             {file: nine, table: with(padding), refuses: [][]byte{counterAt(at)}},
		"padding of no function":              {file: nine, table: with(), facts: facts, refuses: [][]byte{counterAt(at)}},
		"no padding in front of the function": {file: bytes.Repeat([]byte{0x55}, 9), table: with(padding), facts: facts, refuses: [][]byte{counterAt(at)}},
		"retpoline call":                      {file: call(at, fn(8)), table: with(thunks), facts: facts, explains: [][]byte{call(at, fn(30))}, refuses: [][]byte{call(at, fn(31)), jump(at, fn(30))}},
		"retpoline jump":                      {file: jump(at, fn(8)), table: with(thunks), facts: facts, explains: [][]byte{jump(at, fn(31))}, refuses: [][]byte{jump(at, fn(30))}},
		"retpoline call with a prefix":        {file: slices.Concat([]byte{0x2e}, call(at+1, fn(8))), table: with(thunks), facts: facts, explains: [][]byte{slices.Concat([]byte{0x2e}, call(at+1, fn(30)))}, refuses: [][]byte{slices.Concat([]byte{0x2e}, call(at+1, fn(31)))}},
		"retpoline jcc":                       {file: slices.Concat([]byte{0x0f}, branch(0x84, at+1, fn(8))), table: with(thunks), facts: facts, explains: [][]byte{slices.Concat([]byte{0x0f}, branch(0x84, at+1, fn(31)))}, refuses: [][]byte{slices.Concat([]byte{0x0f}, branch(0x85, at+1, fn(31)))}},
		"retpoline call, nothing counts":      {file: call(at, fn(8)), table: with(thunks), refuses: [][]byte{call(at, fn(30))}},
		"static call":                         {file: call(at, fn(10)), table: with(staticCall), facts: static(fn(2) + testSlide), explains: [][]byte{call(at, fn(2)-9), call(at, fn(2))}, refuses: [][]byte{call(at, fn(10)-9), jump(at, fn(2)-9), call(at, fn(2)-8)}},
		"static call into an unloaded module": {file: call(at, fn(10)), table: with(staticCall), facts: static(0xffffffffc0003010), explains: [][]byte{call(at+testSlide, 0xffffffffc0003010-9)}, refuses: [][]byte{call(at+testSlide, 0xffffffffc0003010-8)}},
		"alternative that calls":              {file: []byte{1, 2, 3, 4, 5}, table: with(altInstr(14, 5, 0, call(testTables+0x1000, fn(2)))), facts: facts, explains: [][]byte{call(at, fn(2)-9), call(at, fn(2))}, refuses: [][]byte{call(at, fn(10)-9)}},
	}
}

// TestExplainCountedCalls is TestExplain of a kernel with call depth tracking.
func TestExplainCountedCalls(t *testing.T) { explains(t, counted()) }

// TestCountedCallsOfBPF: BPF's code may count its calls, by the kernel's instruction.
func TestCountedCallsOfBPF(t *testing.T) {
	k := newTestKernel()
	countsCalls(k)
	img := k.image(t)
	const start = 0xffffffffc0001000
	for name, tt := range map[string]struct {
		code   []byte
		counts bool
		finds  bool
	}{
		"counts":            {counterAt(start - testSlide), true, false},
		"counts elsewhere":  {counterAt(start - testSlide + 8), true, true},
		"nothing counts":    {counterAt(start - testSlide), false, true},
		"is cut short":      {counterAt(start - testSlide)[:8], true, true},
		"jumps into it too": {slices.Concat(counterAt(start-testSlide), []byte{opShort, 0xfb}), true, true},
	} {
		e := NewExpected(img, testSlide, PatchFacts{CallDepth: tt.counts})
		code := append(bytes.Clone(tt.code), opRet, opInt3)
		findings, _ := e.ExplainJIT([]*JIT{{Name: name, Start: start, Code: code}}, nil)
		if (len(findings) > 0) != tt.finds {
			t.Errorf("%s: %+v", name, findings)
		}
	}
}
