package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/arch/x86/x86asm"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// JIT is machine code that the kernel's BPF compiler made
// (arch/x86/net/bpf_jit_comp.c): programs, trampolines, dispatchers. What it
// should be cannot be computed without the program, so it is held against what
// the compiler can produce: see [Expected.ExplainJIT].
type JIT struct {
	Name  string
	Start mem.Virt
	Code  []byte
	// Trampoline: calls the functions that it stands in front of behind their
	// entry, where ftrace patches.
	Trampoline bool
	// Functions are where functions start in the code, ascending, if several
	// trampolines lie there behind each other: those of a table of operations.
	// Each is judged by itself.
	Functions []mem.Virt
	// Packed: the code lies in memory that BPF programs share, which is INT3
	// where nothing was copied to.
	Packed bool
	// Uncleared: the kernel gives out memory with what it held before.
	Uncleared bool
}

// jitCode is code being judged.
type jitCode struct {
	*JIT
	half     int    // where its second half begins, 0 if it has none
	slack    int    // how many bytes behind its end, at most, are no code
	rest     bool   // all that is behind its end is none
	starts   []bool // where an instruction starts
	branches []jitBranch
}

// jitBranch is a direct branch out of the code.
type jitBranch struct {
	from, to uint64
	op       x86asm.Op
}

// ExplainJIT holds code of the BPF compiler against what that can produce. Each
// byte belongs to an instruction of the kind the compiler emits, to filling
// behind a return or jump, or to a table of exception entries at the end; no
// branch goes between instructions, and those that leave go to an instruction of
// another image, to the start of a function of approved text, or behind the
// entry of one.
//
// It does not prove that the code is of any program that was verified: one that
// reads and writes all memory passes, as long as it uses no instruction that BPF
// has no use for.
func (e *Expected) ExplainJIT(images []*JIT, mapped func(mem.Virt) bool) (findings, notes []Difference) {
	var swept []*jitCode
	for _, image := range images {
		for _, code := range e.functions(image) {
			swept = append(swept, code)
			if d := e.sweep(code); d != nil {
				findings = append(findings, *d)
			}
		}
	}
	slices.SortFunc(swept, func(a, b *jitCode) int { return int(int64(a.Start) - int64(b.Start)) })
	for _, code := range swept {
		for _, b := range code.branches {
			switch why := e.leads(code, b, swept, mapped); {
			case why == "":
			case why == gone, e.unused(code, b.from):
				notes = append(notes, code.difference(b.from, "a branch of BPF's code, no longer used, to what is gone"))
			default:
				findings = append(findings, code.difference(b.from, why))
			}
		}
		if len(findings) > maxFindings {
			break
		}
	}
	return findings[:min(len(findings), maxFindings)], notes[:min(len(notes), maxFindings)]
}

func (c *jitCode) difference(at uint64, why string) Difference {
	off := at - uint64(c.Start)
	return Difference{Addr: mem.Virt(at), Observed: bytes.Clone(c.Code[off:min(off+16, uint64(len(c.Code)))]),
		Explanation: fmt.Sprintf("%s (%s)", why, c.Name)}
}

// sweep decodes the code from start to end.
func (e *Expected) sweep(c *jitCode) *Difference {
	ended := true // nothing runs on into what comes next
	for off := 0; off < len(c.Code); {
		if ended {
			off = c.behindSlack(off)
			for off < len(c.Code) && (c.Code[off] == opInt3 || c.Code[off] == 0) {
				off++
			}
			if off == len(c.Code) || c.exceptions(off, e) {
				return nil
			}
		}
		if e.counter.starts(c.Code[off:], uint64(c.Start)+uint64(off)) {
			c.starts[off], ended = true, false
			off += e.counter.size()
			continue
		}
		inst, err := decodeJIT(c.Code[off:])
		if err != nil {
			if e.unwrittenHalf(c, off) {
				return nil
			}
			d := c.difference(uint64(c.Start)+uint64(off), fmt.Sprintf("code that BPF's compiler does not make: %v", err))
			return &d
		}
		c.starts[off] = true
		next := off + inst.Len
		if rel, ok := inst.Args[0].(x86asm.Rel); ok {
			c.branches = append(c.branches, jitBranch{uint64(c.Start) + uint64(off), uint64(c.Start) + uint64(int64(next)+int64(rel)), inst.Op})
		}
		ended = inst.Op == x86asm.RET || inst.Op == x86asm.JMP || inst.Op == x86asm.INT
		off = next
	}
	if !ended && !e.unwrittenHalf(c, len(c.Code)-1) {
		d := c.difference(uint64(c.Start)+uint64(len(c.Code))-1, "BPF's code runs on past its end")
		return &d
	}
	return nil
}

// exceptionSize is that of struct exception_table_entry: two distances and the
// kind or a third one (arch/x86/include/asm/extable.h).
const exceptionSize = 12

// exceptions reports whether the rest of the code, from off on, is a table of
// exception entries, each about an instruction of this code, and filling. Loads
// by pointers that may fault have one.
func (c *jitCode) exceptions(off int, e *Expected) bool {
	off &^= 3 // the entry may start with what looks like filling
	n := 0
	for ; off+exceptionSize <= len(c.Code) && !allInt3(c.Code[off:]); off += exceptionSize {
		at := int64(off) + int64(rel32(c.Code[off:]))
		if at < 0 || at >= int64(off) || !c.starts[at] {
			return false
		}
		kind := binary.LittleEndian.Uint32(c.Code[off+8:])
		handler := uint64(c.Start) + uint64(off) + 8 + uint64(int64(int32(kind)))
		if kind&0xff > 32 && e.nameAt(handler) != "ex_handler_bpf" {
			return false
		}
		n++
	}
	return n > 0 && isFilling(c.Code[off:])
}

// leads says what is wrong with a direct branch; gone if it goes to memory that
// holds nothing.
func (e *Expected) leads(c *jitCode, b jitBranch, all []*jitCode, mapped func(mem.Virt) bool) string {
	i, found := slices.BinarySearchFunc(all, b.to, func(c *jitCode, to uint64) int {
		switch {
		case to < uint64(c.Start):
			return 1
		case to-uint64(c.Start) >= uint64(len(c.Code)):
			return -1
		}
		return 0
	})
	if found {
		if all[i].starts[b.to-uint64(all[i].Start)] {
			return ""
		}
		return "a branch of BPF's code goes between instructions"
	}
	if e.approved(b.to) || e.inThunk(b.to) {
		return ""
	}
	if c.Trampoline && b.op == x86asm.CALL {
		// Behind the call of ftrace, and before it an ENDBR since 6.2.
		if e.approved(b.to-5) || e.approved(b.to-9) {
			return ""
		}
	}
	if e.textOf(b.to) == nil && !mapped(mem.Virt(b.to)) {
		return gone
	}
	return "a branch of BPF's code goes to no start of a function of approved text: to " + e.symbol(b.to)
}

// inThunk reports whether addr is in one of the arrays of thunks whose elements
// have no symbols (arch/x86/lib/retpoline.S, since 6.15).
func (e *Expected) inThunk(addr uint64) bool {
	if !e.kernel.holds(addr) {
		return false
	}
	name, start, ok := e.image.Symbols.Lookup(addr - e.slide)
	off := addr - e.slide - start
	return ok && (name == "__x86_indirect_its_thunk_array" || name == "__x86_indirect_its_thunk_rax") && off%64 == 32
}
