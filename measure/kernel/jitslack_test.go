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
	explain := func(code []byte, slack int, more ...*JIT) []Difference {
		findings, _ := e.ExplainJIT(append(more, &JIT{Name: "lab", Start: testImage, Code: code, Trampoline: true, Slack: slack}), mapped)
		return findings
	}
	code := program(fn(1) + testSlide)
	poison := bytes.Repeat([]byte{0x6b}, 64)
	poisoned := append(bytes.Clone(code), poison...)
	garbage := append(bytes.Clone(code), branch(opJump, testImage+uint64(len(code)), testImage+1)...)
	if d := explain(poisoned, TrampolineSlack); len(d) != 0 {
		t.Errorf("poison behind the end: %+v", d)
	}
	if d := explain(garbage, TrampolineSlack); len(d) != 0 {
		t.Errorf("what decodes to a branch, behind the end: %+v", d)
	}
	if d := explain(poisoned, 0); len(d) == 0 {
		t.Error("poison behind the end of code that has no slack: explained")
	}
	if d := explain(append(bytes.Clone(poisoned), poison...), TrampolineSlack); len(d) == 0 {
		t.Error("more than the slack: explained")
	}
	into := bytes.Clone(poisoned)
	into[20] = byte(len(code) - 21) // the jump over the last instructions goes behind them
	if d := explain(into, TrampolineSlack); len(d) == 0 {
		t.Error("a branch of the code into its slack: explained")
	}
	other := &JIT{Name: "other", Start: testImage + 4096, Code: program(testImage + uint64(len(code)))}
	copy(other.Code[11:], branch(opCall, uint64(other.Start)+11, testImage+uint64(len(code))))
	if d := explain(poisoned, TrampolineSlack, other); len(d) == 0 {
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
	explain := func(code []byte, slack int) []Difference {
		findings, _ := e.ExplainJIT([]*JIT{{Name: "bpf_dispatcher_xdp", Start: testImage, Code: code, Trampoline: true, Slack: slack}},
			func(mem.Virt) bool { return true })
		return findings
	}
	if d := explain(code, len(code)); len(d) != 0 {
		t.Errorf("what memory held before: %+v", d)
	}
	if d := explain(code, TrampolineSlack); len(d) == 0 {
		t.Error("what memory held before, where the kernel clears it: explained")
	}
	swapped := append(bytes.Clone(code[128:]), code[:128]...)
	if d := explain(swapped, len(code)); len(d) == 0 {
		t.Error("a half in use that holds no code: explained")
	}
}
