package kernel

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

const testImage = 0xffffffffc0300000

// program is what the compiler makes of a program that calls a helper.
func program(target uint64) []byte {
	code := []byte{0x0f, 0x1f, 0x44, 0, 0, 0x31, 0xc0, 0x55, 0x48, 0x89, 0xe5} // as compiled since 6.1
	code = append(code, branch(opCall, testImage+uint64(len(code)), target)...)
	return append(code, 0x83, 0xf8, 0x05, 0x77, 0x02, 0x31, 0xc0, 0xc9, opRet, opInt3, opInt3)
}

func TestExplainJIT(t *testing.T) {
	e := newExpectedOf(t)
	helper := fn(1) + testSlide
	mapped := func(at mem.Virt) bool { return at < testImage+4096 }
	explain := func(code []byte, trampoline bool, more ...*JIT) (findings, notes []Difference) {
		return e.ExplainJIT(append(more, &JIT{Name: "lab", Start: testImage, Code: code, Trampoline: trampoline}), mapped)
	}
	other := &JIT{Name: "other", Start: testImage + 64, Code: program(helper)}
	exceptions := append(program(helper)[:26], 0, 0) // the table starts at a multiple of 4
	exceptions = append(exceptions, 0xf0-8, 0xff, 0xff, 0xff, 9, 0, 0, 0, 18, 0, 0, 0, opInt3, opInt3)
	exceptions[28] = 0xeb // 7-28: about the instruction at 7
	for name, code := range map[string][]byte{
		"a program":                 program(helper),
		"calls another":             program(uint64(other.Start)),
		"with a sealed entry":       append([]byte{0x66, 0x0f, 0x1f, 0x00}, program(helper-4)...),
		"with exceptions":           exceptions,
		"returns through a thunk":   append(program(helper)[:24], branch(opJump, testImage+24, fn(6)+testSlide)...),
		"a division and a shift":    {0x48, 0xf7, 0xf1, 0xc4, 0xe2, 0xf9, 0xf7, 0xc0, opRet},
		"an atomic and a CPU's own": {0xf0, 0x48, 0x0f, 0xc1, 0x07, 0x65, 0x48, 0x03, 0x04, 0x25, 0, 0x50, 2, 0, opRet},
	} {
		if d, notes := explain(code, false, other); len(d) != 0 || len(notes) != 0 {
			t.Errorf("%s: %+v %+v", name, d, notes)
		}
	}
	if d, _ := explain(program(helper+5), true); len(d) != 0 {
		t.Errorf("a trampoline that goes behind a function's entry: %+v", d)
	}
	if d, notes := explain(program(testImage+8192), false); len(d) != 0 || len(notes) != 1 {
		t.Errorf("a branch into memory that is gone: %+v %+v", d, notes)
	}
	with := func(off int, b ...byte) []byte {
		code := program(helper)
		copy(code[off:], b)
		return code
	}
	for name, code := range map[string][]byte{
		"reads a model-specific register":   with(7, 0x0f, 0x32),
		"writes a control register":         with(7, 0x0f, 0x22, 0xc0),
		"loads a segment register":          with(7, 0x8e, 0xd8),
		"calls into a function":             program(helper + 5),
		"calls into another program":        program(uint64(other.Start) + 1),
		"calls into the kernel's data":      program(testBase + testSlide + 0x300000),
		"branches between its instructions": with(20, 0x01),
		"calls through memory":              with(11, 0xff, 0x15, 0, 0, 0),
		"calls through a register":          with(11, 0xff, 0xd0, 0x90, 0x90, 0x90),
		"user memory through FS":            with(11, 0x64, 0x48, 0x8b, 0x07, 0x90),
		"runs past its end":                 program(helper)[:23],
		"code behind its end":               append(program(helper), 0x0f, 0x05),
		"exceptions about nothing":          append(bytes.Clone(exceptions[:28]), 1, 0, 0, 0, 9, 0, 0, 0, 18, 0, 0, 0),
		"zeros for code":                    {0, 0, 0, 0x90},
	} {
		if d, _ := explain(code, false, other); len(d) == 0 {
			t.Errorf("%s: explained", name)
		}
	}
}

func newExpectedOf(t testing.TB) *Expected {
	return NewExpected(newTestKernel().image(t), testSlide, PatchFacts{})
}

func FuzzExplainJIT(f *testing.F) {
	e := newExpectedOf(f)
	f.Add(program(fn(1)+testSlide), true, uint16(0))
	f.Add([]byte{0xf3, 0x0f, 0x1e, 0xfa, 0xc3, 0xcc, 0, 0}, false, uint16(4))
	f.Fuzz(func(t *testing.T, code []byte, uncleared bool, function uint16) {
		if len(code) > 1<<16 {
			return
		}
		e.ExplainJIT([]*JIT{{Start: testImage, Code: code, Trampoline: true, Packed: function&1 != 0, Uncleared: uncleared,
			Functions: []mem.Virt{testImage + mem.Virt(function), testImage + mem.Virt(len(code))}}}, func(mem.Virt) bool { return true })
	})
}
