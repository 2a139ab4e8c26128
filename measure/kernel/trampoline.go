package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// trampolineSource is a part of the kernel's text that ftrace copies to make a
// trampoline, and the places in it that the copy has changed
// (arch/x86/kernel/ftrace.c, create_trampoline).
type trampolineSource struct {
	start, end, ops, call, jump string
}

var trampolineSources = []trampolineSource{
	{"ftrace_caller", "ftrace_caller_end", "ftrace_caller_op_ptr", "ftrace_call", ""},
	{"ftrace_regs_caller", "ftrace_regs_caller_end", "ftrace_regs_caller_op_ptr", "ftrace_regs_call", "ftrace_regs_caller_jmp"},
}

// ExplainTrampoline compares a trampoline with the text it was copied from.
// code is the memory of all its pages; text returns n bytes of the kernel's
// text as memory has them, nil if they are not known.
func (e *Expected) ExplainTrampoline(t Trampoline, code []byte, text func(at mem.Virt, n int) []byte) []Difference {
	whole := func(explanation string) []Difference {
		return []Difference{{Addr: t.Start, Observed: bytes.Clone(code[:min(len(code), 16)]), Explanation: "trampoline of ftrace: " + explanation}}
	}
	if t.Size < 16 || t.Size > uint64(len(code)) {
		return whole(fmt.Sprintf("%d bytes cannot hold one", t.Size))
	}
	for _, source := range trampolineSources {
		start, ok1 := e.image.Symbols.Address(source.start)
		end, ok2 := e.image.Symbols.Address(source.end)
		// What is copied, a return of 1, 2 or 5 bytes, the ops pointer.
		body := end - start
		if rest := t.Size - 8 - body; !ok1 || !ok2 || end < start || body > 4096 || t.Size < 8+body || rest != 1 && rest != 2 && rest != 5 {
			continue
		}
		copied := text(mem.Virt(start+e.slide), int(body))
		if copied == nil {
			return nil // asked for
		}
		want := e.trampoline(t, source, start, copied, code)
		return runs(t.Start, code, want, "trampoline of ftrace: the code differs from the kernel's text that it is a copy of")
	}
	return whole("no part of the kernel's text that ftrace copies has its size")
}

// trampoline returns what all of a trampoline's pages should hold. seen names
// the choices that are then checked.
func (e *Expected) trampoline(t Trampoline, source trampolineSource, start uint64, copied, seen []byte) []byte {
	want, _ := rebase(copied, start+e.slide-uint64(t.Start), seen)
	at := func(name string) int {
		addr, ok := e.image.Symbols.Address(name)
		if !ok || addr < start || addr-start+8 > uint64(len(copied)) {
			return -1
		}
		return int(addr - start)
	}
	if off := at(source.ops); off >= 0 { // mov function_trace_op(%rip), %rdx
		binary.LittleEndian.PutUint32(want[off+3:], uint32(t.Size)-8-uint32(off)-7)
	}
	if off := at(source.call); off >= 0 {
		if op, target, ok := branchTarget(seen[off:], uint64(t.Start)+uint64(off)); ok && op == opCall && e.approved(target) {
			copy(want[off:], seen[off:off+5])
		}
	}
	if off := at(source.jump); source.jump != "" && off >= 0 && isAtomicNop(seen[off:off+2]) {
		copy(want[off:], seen[off:off+2])
	}
	tail := seen[len(want) : t.Size-8]
	op, target, ok := branchTarget(tail, uint64(t.Start)+uint64(len(want)))
	switch {
	case ok && op == opJump && e.returnThunk(target):
		want = append(want, tail...)
	default: // RET, INT3, and what the memory was filled with
		want = append(want, opRet)
		if len(tail) > 1 {
			want = append(want, opInt3)
		}
		want = append(want, e.filling(tail[min(len(tail), 2):])...)
	}
	want = binary.LittleEndian.AppendUint64(want, uint64(t.Ops))
	return append(want, e.filling(seen[t.Size:])...)
}

// filling is fresh executable memory: zeros, or INT3 since 6.13, or what it held
// before.
func (e *Expected) filling(seen []byte) []byte {
	if allInt3(seen) || e.uncleared {
		return seen
	}
	return make([]byte, len(seen))
}
