package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// tracedKernel has an ftrace_caller of 128 bytes: at 32 it loads its user, at 64
// it calls it.
func tracedKernel(t testing.TB) *Expected {
	k := newTestKernel()
	k.symbols = append(k.symbols, Symbol{fn(4) + 32, 't', "ftrace_caller_op_ptr"}, Symbol{fn(4) + 128, 't', "ftrace_caller_end"})
	k.code(fn(4)+32, 0x48, 0x8b, 0x15, 1, 2, 3, 4)
	k.code(fn(5), call(fn(5), fn(11))...)
	return NewExpected(k.image(t), testSlide, PatchFacts{})
}

// poison is what a kernel that poisons pages leaves in them.
var poison = [3]byte{0xaa, 0xaa, 0xaa}

func TestExplainTrampoline(t *testing.T) {
	e := tracedKernel(t)
	const at, ops = 0xffffffffc0100000, 0xffff888001234500
	trampoline := Trampoline{Start: at, Size: 128 + 5 + 8, Ops: ops, Func: mem.Virt(fn(1) + testSlide)}
	text := func(addr mem.Virt, n int) []byte { return e.kernel.want()[addr-e.kernel.Start:][:n] }
	code := make([]byte, mem.PageSize)
	copy(code, text(mem.Virt(fn(4)+testSlide), 128))
	binary.LittleEndian.PutUint32(code[35:], 141-8-32-7)
	copy(code[64:], branch(opCall, at+64, fn(1)+testSlide))
	copy(code[128:], []byte{opRet, opInt3})
	binary.LittleEndian.PutUint64(code[133:], ops)
	if d := e.ExplainTrampoline(trampoline, code, text); len(d) != 0 {
		t.Fatalf("a good one: %+v", d)
	}
	thunk := bytes.Clone(code)
	copy(thunk[128:], branch(opJump, at+128, fn(6)+testSlide))
	if d := e.ExplainTrampoline(trampoline, thunk, text); len(d) != 0 {
		t.Errorf("one that returns through a thunk: %+v", d)
	}
	uncleared := bytes.Clone(code)
	copy(uncleared[130:133], poison[:])
	copy(uncleared[141:], bytes.Repeat(poison[:1], len(code)-141))
	if d := e.ForMadeCode(nil, true).ExplainTrampoline(trampoline, uncleared, text); len(d) != 0 {
		t.Errorf("one in memory that was not cleared: %+v", d)
	}
	if d := e.ExplainTrampoline(trampoline, uncleared, text); len(d) != 2 {
		t.Errorf("the same where memory is cleared: %+v", d)
	}
	uncleared[3] ^= 1
	if d := e.ForMadeCode(nil, true).ExplainTrampoline(trampoline, uncleared, text); len(d) != 1 {
		t.Errorf("a byte of its code: %+v", d)
	}
	for name, attack := range map[string]func(b []byte){
		"a byte of the code":      func(b []byte) { b[3] ^= 1 },
		"its user is another":     func(b []byte) { b[133] ^= 8 },
		"loads another user":      func(b []byte) { b[35]++ },
		"calls into a function":   func(b []byte) { copy(b[64:], branch(opCall, at+64, fn(1)+testSlide+1)) },
		"calls outside of text":   func(b []byte) { copy(b[64:], branch(opCall, at+64, at+200)) },
		"returns elsewhere":       func(b []byte) { copy(b[128:], branch(opJump, at+128, fn(1)+testSlide)) },
		"does not return":         func(b []byte) { b[128] = opNop },
		"code hidden in the rest": func(b []byte) { b[1000] = 0x90 },
	} {
		b := bytes.Clone(code)
		attack(b)
		if d := e.ExplainTrampoline(trampoline, b, text); len(d) == 0 {
			t.Errorf("%s: explained", name)
		}
	}
	wrong := trampoline
	wrong.Size = 60
	if d := e.ExplainTrampoline(wrong, code, text); len(d) != 1 {
		t.Errorf("wrong size: %+v", d)
	}
}
