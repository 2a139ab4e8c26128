package kernel

import (
	"bytes"
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Call depth tracking (retbleed=stuff on Intel's Skylake, from 6.2 on) counts each
// call. The kernel writes the instruction that does so, a SAR of a variable of the
// CPU, into the padding in front of a function, and has the calls of that function
// begin there; in front of calls that BPF's compiler makes it is in line
// (arch/x86/kernel/callthunks.c).

// callCounter is the instruction that counts, 0 bytes if calls are not counted.
type callCounter struct {
	code []byte // as it stands at at
	at   uint64
}

// callCounterOf takes the instruction from the read-only data, where the kernel
// keeps it to copy it.
func (e *Expected) callCounterOf() callCounter {
	t := e.image.between("skl_call_thunk_template", "skl_call_thunk_tail")
	if !e.facts.CallDepth || len(t.data) < 9 || len(t.data) > 16 {
		return callCounter{}
	}
	return callCounter{e.image.moved(t, e.slide), t.addr + e.slide}
}

// size is the length of the instruction.
func (c callCounter) size() int { return len(c.code) }

// moved is the instruction at another address: SAR r/m64, imm8 with the distance
// to its variable behind GS, REX.W, the opcode and a ModRM byte.
func (c callCounter) moved(to uint64) []byte {
	out := bytes.Clone(c.code)
	binary.LittleEndian.PutUint32(out[4:], uint32(rel32(out[4:]))+uint32(c.at-to))
	return out
}

// starts reports whether code, at an address, starts with the instruction.
func (c callCounter) starts(code []byte, at uint64) bool {
	return c.size() > 0 && bytes.HasPrefix(code, c.moved(at))
}

// counted reports whether a function of approved text is at addr, with padding in
// front of it that the instruction fits into.
func (e *Expected) counted(addr uint64) bool {
	n := uint64(e.counter.size())
	t := e.textOf(addr)
	if n == 0 || t == nil || !t.symbols.Start(addr-t.slide) || addr-uint64(t.Start) < n {
		return false
	}
	off := addr - uint64(t.Start)
	return allNop(t.want()[off-n : off])
}

// behindCounter returns the function that a call of target reaches: target itself,
// or the one behind the padding where its calls are counted.
func (e *Expected) behindCounter(op byte, target uint64) uint64 {
	if function := target + uint64(e.counter.size()); op == opCall && e.counted(function) {
		return function
	}
	return target
}

// behindStaticCounter is the same of a static call, whose function may have been in a
// module that was unloaded.
func (e *Expected) behindStaticCounter(op byte, target, function uint64, known bool) uint64 {
	switch n := uint64(e.counter.size()); {
	case !known:
		return e.behindCounter(op, target)
	case n > 0 && op == opCall && target+n == function && (e.counted(function) || !e.approved(function)):
		return function
	}
	return target
}

// countingThunk is the thunk through a register that counts the call or, of a jump,
// what was counted before it (arch/x86/lib/retpoline.S).
func (e *Expected) countingThunk(op byte, reg byte) (uint64, bool) {
	if e.counter.size() == 0 {
		return 0, false
	}
	prefix := "__x86_indirect_jump_thunk_"
	if op == opCall {
		prefix = "__x86_indirect_call_thunk_"
	}
	at, ok := e.image.Symbols.Address(prefix + registers[reg])
	return at + e.slide, ok
}

// counting: a call became one of the padding in front of the function (patch_call).
func (x *explainer) counting(at uint64, cur []byte) [][]byte {
	if op, target, ok := branchTarget(cur, at); ok && op == opCall && x.env.counted(target) {
		n := x.env.counter.size()
		return [][]byte{append(branch(opCall, at, target-uint64(n)), cur[5:]...)}
	}
	return nil
}

// withoutCounters returns the page with the padding in front of functions put back
// where it holds the instruction that counts calls. Functions and their padding are
// aligned alike, so that none lies in two pages.
func (x *explainer) withoutCounters(lo int, seen, want []byte) []byte {
	n := x.env.counter.size()
	if n == 0 {
		return seen
	}
	out := bytes.Clone(seen)
	start := x.env.counter.code[:4]
	for off := 0; off+n <= mem.PageSize; off++ {
		i := bytes.Index(seen[off:mem.PageSize], start)
		if i < 0 {
			break
		}
		off += i
		at := uint64(x.text.Start) + uint64(lo) + uint64(off)
		if off+n <= mem.PageSize && x.env.counter.starts(seen[off:], at) && x.env.counted(at+uint64(n)) {
			copy(out[off:], want[off:off+n])
		}
	}
	return out
}

func allNop(code []byte) bool {
	for _, b := range code {
		if b != opNop {
			return false
		}
	}
	return true
}
