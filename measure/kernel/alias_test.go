package kernel

import "testing"

// Code that runs before relocation has names of its own for functions that are
// elsewhere too, as of 7.2; they come first in the order of symbols.
func TestNameOfFunctionWithStartupAlias(t *testing.T) {
	k := newTestKernel()
	k.symbols = append(k.symbols, Symbol{fn(8), 'T', "__pi___x86_indirect_thunk_rax"})
	e := NewExpected(k.image(t), testSlide, PatchFacts{})
	if reg, ok := e.thunkRegister(fn(8) + testSlide); !ok || reg != 0 {
		t.Errorf("thunk of register %d, %v; it is called %q", reg, ok, e.nameAt(fn(8)+testSlide))
	}
}
