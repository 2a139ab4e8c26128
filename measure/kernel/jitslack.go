package kernel

import (
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Images of BPF's code hold more than code: what the compiler asked for and did
// not write, and a half that is not in use.

// trampolineSlack is how many bytes behind the end of a trampoline, at most, are
// copied along out of memory that nobody cleared, by kernels since 6.10, which make
// it elsewhere and copy it then into memory that programs share
// (arch/x86/net/bpf_jit_comp.c, arch_prepare_bpf_trampoline): its size is
// BPF_INSN_SAFETY more than that of a trial at another address, which may be
// aligned worse at two places (emit_align, to 16).
const trampolineSlack = 64 + 2*15

// functions takes code apart where its functions start. What may follow each and is
// no code depends on where the kernel writes trampolines:
//
//   - in memory that programs share (since 6.8), each is copied with its slack, also
//     one in front of another; behind that is INT3, whether memory is cleared or not.
//     Of a dispatcher a whole half is copied;
//   - before, in a page of their own, where those of a table lie behind each other
//     with nothing between (kernel/bpf/bpf_struct_ops.c). The rest of the page, behind
//     the last, nobody writes.
//
// So a start that is none makes trampolineSlack bytes of the first kind, at most,
// no code, and none of the second; and it is itself where code has to be.
func (e *Expected) functions(image *JIT) (out []*jitCode) {
	add := func(start mem.Virt, code []byte, last bool) {
		part := *image
		part.Start, part.Code = start, code
		c := &jitCode{JIT: &part, half: e.half(&part), starts: make([]bool, len(code))}
		if image.Trampoline && image.Packed {
			c.slack = trampolineSlack
		}
		c.rest = image.Trampoline && image.Uncleared && last && (!image.Packed || c.half > 0)
		out = append(out, c)
	}
	start, code := image.Start, image.Code
	for _, next := range image.Functions {
		if next <= start || next-start >= mem.Virt(len(code)) {
			continue
		}
		n := next - start
		add(start, code[:n:n], false)
		start, code = next, code[n:]
	}
	add(start, code, true)
	return out
}

// behindSlack returns where slack ends that begins at off, behind a return or
// jump: off if there is none. Filling may follow it. No branch before goes there;
// one from what comes after it, or from other code, is a finding
// ([Expected.leads]), since no instruction starts there.
func (c *jitCode) behindSlack(off int) int {
	end := len(c.Code)
	if off < c.half {
		end = c.half
	}
	first, over := uint64(c.Start)+uint64(off), uint64(c.Start)+uint64(end)
	if off == 0 || off == c.half || !c.rest && withoutFilling(c.Code[off:end]) > c.slack ||
		slices.ContainsFunc(c.branches, func(b jitBranch) bool { return b.to >= first && b.to < over }) {
		return off
	}
	return end
}

// withoutFilling is how much of code is in front of the filling that it ends with.
func withoutFilling(code []byte) int {
	n := len(code)
	for n > 0 && (code[n-1] == opInt3 || code[n-1] == 0) {
		n--
	}
	return n
}

// half returns where the second half of an image begins that has two, of which
// one is in use while the other is made: dispatchers and, before 5.12 (and so
// while the kernel single-stepped probes by the trap flag), trampolines. 0 is none.
func (e *Expected) half(image *JIT) int {
	_, old := e.image.Symbols.Address("kprobe_debug_handler")
	if image.Trampoline && (strings.HasPrefix(image.Name, "bpf_dispatcher_") || old && strings.HasPrefix(image.Name, "bpf_trampoline_")) {
		return len(image.Code) / 2
	}
	return 0
}

// unwrittenHalf reports whether what is at an offset of an image may be what the
// memory held before: it is in the second half, which is not in use.
func (e *Expected) unwrittenHalf(c *jitCode, off int) bool {
	return c.half > 0 && off >= c.half && c.rest && e.unused(c, uint64(c.Start)+uint64(off))
}

// unused reports whether code lies in the half of an image that is not in use:
// what it went to may be gone and others be there. A dispatcher's are chosen by
// the key of its static call; before those, and for trampolines, nothing but the
// text that goes there tells.
func (e *Expected) unused(c *jitCode, from uint64) bool {
	start := uint64(c.Start)
	if from-start >= uint64(c.half) {
		start += uint64(c.half)
	}
	if strings.HasPrefix(c.Name, "bpf_dispatcher_") {
		for key, function := range e.facts.StaticCalls {
			if function == start && strings.HasPrefix(e.nameAt(key), dispatcherKey) {
				return false
			}
		}
	}
	return c.half > 0
}
