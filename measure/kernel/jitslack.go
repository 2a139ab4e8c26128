package kernel

import (
	"slices"
	"strings"
)

// Images of BPF's code hold more than code: what the compiler asked for and did
// not write, and a half that is not in use.

// TrampolineSlack is that of a trampoline which the compiler makes elsewhere and
// then copies (kernels since 6.10, arch/x86/net/bpf_jit_comp.c): its size is
// BPF_INSN_SAFETY more than that of a trial at another address, which may be
// aligned worse at two places (emit_align, to 16).
const TrampolineSlack = 64 + 2*15

// behindSlack returns where slack ends that begins at off, behind a return or
// jump: off if there is none. No branch before goes there; one from what comes
// after it, or from other code, is a finding ([Expected.leads]), since no
// instruction starts there.
func (c *jitCode) behindSlack(off int) int {
	end := len(c.Code)
	if off < c.half {
		end = c.half
	}
	first, over := uint64(c.Start)+uint64(off), uint64(c.Start)+uint64(end)
	if off == 0 || off == c.half || end-off > c.Slack ||
		slices.ContainsFunc(c.branches, func(b jitBranch) bool { return b.to >= first && b.to < over }) {
		return off
	}
	return end
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
	return c.half > 0 && off >= c.half && c.Slack >= len(c.Code) && e.unused(c, uint64(c.Start)+uint64(off))
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
