package kernel

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// What the compiler did not write behind a trampoline is no code, unless the
// trampoline goes there.
func TestExplainJITSlack(t *testing.T) {
	e := newExpectedOf(t)
	mapped := func(mem.Virt) bool { return true }
	explain := func(code []byte, packed bool, more ...*JIT) []Difference {
		findings, _ := e.ExplainJIT(append(more, &JIT{Name: "lab", Start: testImage, Code: code, Trampoline: true, Packed: packed, Uncleared: packed}), mapped)
		return findings
	}
	code := program(fn(1) + testSlide)
	poison := bytes.Repeat([]byte{0x6b}, 64)
	poisoned := append(bytes.Clone(code), poison...)
	garbage := append(bytes.Clone(code), branch(opJump, testImage+uint64(len(code)), testImage+1)...)
	if d := explain(poisoned, true); len(d) != 0 {
		t.Errorf("poison behind the end: %+v", d)
	}
	if d := explain(garbage, true); len(d) != 0 {
		t.Errorf("what decodes to a branch, behind the end: %+v", d)
	}
	if d := explain(poisoned, false); len(d) == 0 {
		t.Error("poison behind the end of code that has no slack: explained")
	}
	if d := explain(append(bytes.Clone(poisoned), poison...), true); len(d) == 0 {
		t.Error("more than the slack: explained")
	}
	if d := explain(append(bytes.Clone(poisoned), bytes.Repeat([]byte{opInt3}, 4096)...), true); len(d) != 0 {
		t.Errorf("filling behind the slack: %+v", d)
	}
	into := bytes.Clone(poisoned)
	into[20] = byte(len(code) - 21) // the jump over the last instructions goes behind them
	if d := explain(into, true); len(d) == 0 {
		t.Error("a branch of the code into its slack: explained")
	}
	other := &JIT{Name: "other", Start: testImage + 4096, Code: program(testImage + uint64(len(code)))}
	copy(other.Code[11:], branch(opCall, uint64(other.Start)+11, testImage+uint64(len(code))))
	if d := explain(poisoned, true, other); len(d) == 0 {
		t.Error("a branch of other code into the slack: explained")
	}
}

// Where the kernel does not clear memory, what nobody wrote behind the code of a
// half, and in one that is not in use, is no code.
func TestExplainJITUnwrittenHalf(t *testing.T) {
	k := newTestKernel()
	k.symbols = append(k.symbols, Symbol{fn(10), 'd', dispatcherKey + "xdp"})
	e := NewExpected(k.image(t), testSlide, PatchFacts{StaticCalls: map[uint64]uint64{fn(10) + testSlide: testImage}})
	code := bytes.Repeat([]byte{0xaa}, 256)
	copy(code, program(fn(1)+testSlide))
	explain := func(code []byte, uncleared bool) []Difference {
		findings, _ := e.ExplainJIT([]*JIT{{Name: "bpf_dispatcher_xdp", Start: testImage, Code: code, Trampoline: true, Packed: true, Uncleared: uncleared}},
			func(mem.Virt) bool { return true })
		return findings
	}
	if d := explain(code, true); len(d) != 0 {
		t.Errorf("what memory held before: %+v", d)
	}
	if d := explain(code, false); len(d) == 0 {
		t.Error("what memory held before, where the kernel clears it: explained")
	}
	swapped := append(bytes.Clone(code[128:]), code[:128]...)
	if d := explain(swapped, true); len(d) == 0 {
		t.Error("a half in use that holds no code: explained")
	}
}

// Trampolines of a table of operations lie behind each other. Each is judged, whatever
// the kernel left between and behind them.
func TestExplainJITFunctions(t *testing.T) {
	e := newExpectedOf(t)
	function := []byte{0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0xc9, opRet}
	page := func(filling byte, parts ...[]byte) []byte {
		code := bytes.Join(parts, nil)
		return append(code, bytes.Repeat([]byte{filling}, mem.PageSize-len(code))...)
	}
	const slack = 64
	poison := bytes.Repeat([]byte{0xaa}, slack)
	second := mem.Virt(testImage) + mem.Virt(len(function))
	packed := second + slack
	toCR3 := []byte{0x0f, 0x22, 0xd8, opRet} // MOV %RAX, %CR3
	ends := []byte{opRet}
	into := branch(opJump, testImage, testImage+5+4) // to what follows an ENDBR64
	apart := func(functions ...mem.Virt) JIT { return JIT{Functions: functions, Uncleared: true} }
	shared := func(functions ...mem.Virt) JIT { return JIT{Functions: functions, Packed: true} }
	sharedUncleared := func(functions ...mem.Virt) JIT { return JIT{Functions: functions, Packed: true, Uncleared: true} }
	for name, tt := range map[string]struct {
		code []byte
		jit  JIT
		good bool
	}{
		// In a page of its own, before 6.8.
		"two in a page":                            {page(0, function, function), JIT{Functions: []mem.Virt{second}}, true},
		"the same where memory is not cleared":     {page(0xaa, function, function), apart(second), true},
		"what no BPF has, in the second":           {page(0xaa, function, toCR3), apart(second), false},
		"what no BPF has, in the first":            {page(0xaa, toCR3, function), apart(testImage + 4), false},
		"where the first ends, no start":           {page(0xaa, function, toCR3, function), apart(second + 4), false},
		"poison between":                           {page(0xaa, function, poison, function), apart(packed), false},
		"a start that is none, before code":        {page(0xaa, function, ends, toCR3, function), apart(second, second+5), false},
		"a start that is none, within a function":  {page(0xaa, function, function), apart(testImage+9, second), false},
		"poison behind, where memory is cleared":   {page(0xaa, function, function), JIT{Functions: []mem.Virt{second}}, false},
		"the second goes behind its end":           {page(0xaa, function, branch(opCall, uint64(second), uint64(second)+6), ends), apart(second), false},
		"the first goes behind the end of another": {page(0xaa, branch(opCall, testImage, testImage+7), ends, ends), apart(testImage + 6), false},
		// In memory that programs share, since then.
		"two, each with its slack":               {page(opInt3, function, poison, function, poison), shared(packed), true},
		"the same, with memory not cleared":      {page(opInt3, function, poison, function, poison), sharedUncleared(packed), true},
		"an unknown second":                      {page(opInt3, function, poison, function, poison), shared(), false},
		"what no BPF has, in a shared second":    {page(opInt3, function, poison, toCR3, poison), sharedUncleared(packed), false},
		"more than the slack in front of one":    {page(opInt3, function, poison, poison, function), sharedUncleared(packed + slack), false},
		"more than the slack behind the last":    {page(opInt3, function, poison, function, poison, poison), sharedUncleared(packed), false},
		"what memory held before, to the end":    {page(0xaa, function, poison, function, poison), sharedUncleared(packed), false},
		"a function goes into its slack":         {page(opInt3, into, function[:5], toCR3, function), shared(testImage + 14), false},
		"starts in no order and out of the code": {page(opInt3, function, poison, function, poison), shared(testImage, packed, packed, testImage+mem.PageSize, 1), true},
	} {
		image := tt.jit
		image.Name, image.Start, image.Code, image.Trampoline = "bpf_struct_ops", testImage, tt.code, true
		d, _ := e.ExplainJIT([]*JIT{&image}, func(mem.Virt) bool { return true })
		if (len(d) == 0) != tt.good {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
