package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/arch/x86/x86asm"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// SlotPage is a page in which the kernel keeps copies of probed instructions,
// cut into slots of the same size (kernel/kprobes.c, struct kprobe_insn_cache).
type SlotPage struct {
	Start     mem.Virt
	Size      uint64 // of one slot, bytes
	Optimized bool   // of optimized probes: the template and more around the copies
}

// Slots are judged by what they are for: a copy of instructions of approved
// text, with which nothing can be done that the text does not do. Nobody but the
// probe's owner needs to be believed for it.
//
// A slot whose probe is gone keeps its code, unused: it may be a copy of
// instructions that are gone too, such as those of an unloaded module.

// TextReader returns n bytes of approved text as memory has them: nil if they
// are asked for, not ok if at lies in no text that was read.
type TextReader func(at mem.Virt, n int) (code []byte, ok bool)

// Limits of what is copied into a slot (arch/x86/include/asm/kprobes.h).
const (
	maxInsn      = 15      // bytes of one instruction
	maxDetoured  = 16 + 4  // MAX_OPTIMIZED_LENGTH
	leastSlot    = maxInsn // MAX_INSN_SIZE is 16
	maxSlotBytes = mem.PageSize
)

// ForMadeCode returns what is expected of code that the kernel makes, when these
// probes are registered: by them slots are judged. Those of the facts are of the
// moment when text was read, which slots are not read at. Uncleared says that the
// kernel gives out memory with what it held before (init_on_alloc=0): where it did
// not write, and nothing leads, anything may be.
func (e *Expected) ForMadeCode(probes []Kprobe, uncleared bool) *Expected {
	out := *e
	out.probes, out.uncleared = probes, uncleared
	return &out
}

// ExplainSlots compares the slots of a page, whose bytes are code, with the
// text that they hold copies of. It returns what differs and how many slots hold
// the code of probes that are gone.
func (e *Expected) ExplainSlots(p SlotPage, code []byte, text TextReader) (out []Difference, stale int) {
	if p.Size < leastSlot || p.Size > maxSlotBytes || len(code) != mem.PageSize {
		return []Difference{{Addr: p.Start, Explanation: fmt.Sprintf("kprobe slots of %d bytes", p.Size)}}, 0
	}
	owners := make(map[mem.Virt]*Kprobe)
	for i := range e.probes {
		k := &e.probes[i]
		at := k.Slot
		if p.Optimized {
			at = k.Jump
		}
		if at != 0 {
			owners[at] = k
		}
	}
	i := uint64(0)
	for ; i+p.Size <= mem.PageSize; i += p.Size {
		s := slot{env: e, start: p.Start + mem.Virt(i), code: code[i : i+p.Size], text: text, owner: owners[p.Start+mem.Virt(i)]}
		why := s.judge(p.Optimized)
		switch {
		case why == "":
		case why == gone:
			stale++
		default:
			out = append(out, Difference{Addr: s.start, Observed: bytes.Clone(s.code[:min(len(s.code), 32)]), Expected: s.expected, Explanation: why})
		}
	}
	if rest := code[i:]; !e.unwritten(rest) {
		out = append(out, Difference{Addr: p.Start + mem.Virt(i), Observed: bytes.Clone(rest[:min(len(rest), 16)]),
			Explanation: "code behind the last slot of a page of kprobe slots"})
	}
	return out, stale
}

// ExplainOwners says which registered probes have a slot that is none: in no page
// of slots, between two of one, or another probe's. What a probe's breakpoint or
// jump leads to is then not what ExplainSlots has compared.
func (e *Expected) ExplainOwners(pages []SlotPage) []Difference {
	var out []Difference
	taken := make(map[mem.Virt]bool)
	for _, k := range e.probes {
		for optimized, at := range map[bool]mem.Virt{false: k.Slot, true: k.Jump} {
			if at == 0 {
				continue
			}
			if taken[at] || !slices.ContainsFunc(pages, func(p SlotPage) bool {
				return p.Optimized == optimized && at >= p.Start && p.Size >= leastSlot && uint64(at-p.Start)+p.Size <= mem.PageSize && uint64(at-p.Start)%p.Size == 0
			}) {
				out = append(out, Difference{Addr: k.Addr, Explanation: fmt.Sprintf("the kprobe here has its code at %v, which is no slot of its own", at)})
			}
			taken[at] = true
		}
	}
	return out
}

// unwritten reports whether memory may be as it was when the kernel got it.
func (e *Expected) unwritten(code []byte) bool { return e.uncleared || isFilling(code) }

// isFilling reports whether nobody has written to fresh executable memory.
func isFilling(code []byte) bool { return allInt3(code) || bytes.Equal(code, make([]byte, len(code))) }

// gone is the verdict on a slot whose probe is gone.
const gone = "left over"

// slot is one being judged.
type slot struct {
	env      *Expected
	start    mem.Virt
	code     []byte
	text     TextReader
	owner    *Kprobe // the registered probe that has it, nil if none
	expected []byte  // for a finding
}

func (s *slot) judge(optimized bool) string {
	switch {
	case s.owner == nil && s.env.unwritten(s.code):
		return ""
	case isFilling(s.code):
		return "the slot of a registered kprobe is empty"
	}
	if optimized {
		return s.judgeOptimized()
	}
	return s.judgeSingle()
}

// judgeSingle: the slot of a breakpoint holds the instruction that it replaced,
// moved, then a jump to the next one or INT3 (arch/x86/kernel/kprobes/core.c,
// arch_copy_kprobe). Up to 5.12 an instruction that cannot be followed by a jump
// is single-stepped and stands alone.
func (s *slot) judgeSingle() string {
	if s.owner != nil {
		length := s.length()
		for n := 1; n <= maxInsn; n++ {
			ends := s.jumpsTo(n) == uint64(s.owner.Addr)+uint64(n) || n == length && s.stops(n) || length == 0 && s.trapsAt(n)
			if ends && s.copies(s.owner.Addr, n, 0) {
				return ""
			}
		}
		return "the slot of a kprobe differs from the instruction that the probe replaced"
	}
	for n := 1; n <= maxInsn; n++ {
		if to := s.jumpsTo(n); to != 0 && s.copies(mem.Virt(to-uint64(n)), n, 0) {
			return gone
		}
	}
	// Its text is gone as well, or no jump tells where it was: one instruction
	// that nothing goes to and that leads nowhere.
	n := s.length()
	if n == 0 || n+1 > len(s.code) {
		return "a kprobe slot without a probe holds no instruction"
	}
	if rest := s.code[n:]; rest[0] == opInt3 || isFilling(rest) || s.leadsNowhere(n) {
		return gone
	}
	return "a kprobe slot without a probe holds more than an instruction"
}

// length is that of the slot's first instruction, 0 if it is not known.
func (s *slot) length() int {
	inst, err := x86asm.Decode(s.code, 64)
	if err != nil || inst.Op == 0 || inst.Len > len(s.code) {
		return 0
	}
	return inst.Len
}

func (s *slot) trapsAt(off int) bool { return off < len(s.code) && s.code[off] == opInt3 }

// stops reports whether nothing runs on behind an instruction that is
// single-stepped. Kernels that step by the processor's trap flag leave there
// what the slot held before.
func (s *slot) stops(off int) bool {
	_, byFlag := s.env.image.Symbols.Address("kprobe_debug_handler")
	return s.trapsAt(off) || byFlag && (off >= len(s.code) || isFilling(s.code[off:]) || s.jumpsTo(off) == 0)
}

// jumpsTo returns where a jump at an offset goes, 0 if there is none.
func (s *slot) jumpsTo(off int) uint64 {
	if off+5 > len(s.code) || s.code[off] != opJump {
		return 0
	}
	_, target, _ := branchTarget(s.code[off:], uint64(s.start)+uint64(off))
	return target
}

// leadsNowhere reports whether a jump at an offset goes to memory that holds no
// text that was read, as when its module is gone. Executable memory is all
// accounted for: what is no text of a module cannot be run there, or is judged
// by itself.
func (s *slot) leadsNowhere(off int) bool {
	to := s.jumpsTo(off)
	if to == 0 || s.env.textOf(to) != nil {
		return false
	}
	_, ok := s.text(mem.Virt(to), 1)
	return !ok && mem.Virt(to) >= modulesFirst && mem.Virt(to) <= modulesLast
}

// copies reports whether n bytes of the slot from off on are the text at an
// address, moved, with the instructions that probes replaced put back.
func (s *slot) copies(from mem.Virt, n, off int) bool {
	original, ok := s.text(from, n)
	if !ok {
		return false
	}
	if original == nil {
		return true // asked for
	}
	s.expected = movedTo(s.env.withoutProbes(from, original), uint32(uint64(from)-uint64(s.start)-uint64(off)))
	return bytes.Equal(s.expected, s.code[off:off+n])
}

// movedTo returns a copy of instructions with the operands that are relative to
// RIP grown by how far it was moved (__copy_instruction). What does not decode
// has none that probes copy: they refuse what they cannot decode either.
func movedTo(code []byte, delta uint32) []byte {
	out := bytes.Clone(code)
	for off := 0; off < len(code); {
		inst, err := x86asm.Decode(code[off:], 64)
		if err != nil || inst.Op == 0 {
			break
		}
		for _, arg := range inst.Args {
			if m, ok := arg.(x86asm.Mem); ok && m.Base == x86asm.RIP && inst.PCRel == 4 {
				at := out[off+inst.PCRelOff:]
				binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)+delta)
			}
		}
		off += inst.Len
	}
	return out
}

// withoutProbes returns text at an address with the bytes that registered
// probes replaced put back.
func (e *Expected) withoutProbes(at mem.Virt, code []byte) []byte {
	out := code
	for _, k := range e.facts.Kprobes {
		i := int64(k.Addr - at)
		if i <= -5 || i >= int64(len(code)) {
			continue
		}
		from, to := max(i, 0), min(i+5, int64(len(code)))
		var now, before []byte
		switch jump := branch(opJump, uint64(k.Addr), uint64(k.Jump)); {
		case i >= 0 && code[i] == opInt3:
			now, before = []byte{opInt3}, []byte{k.Opcode}
		case k.Jump != 0 && len(k.Copied) == 4 && (i >= 0 || k.Optimized):
			now, before = jump[from-i:to-i], append([]byte{k.Opcode}, k.Copied...)[from-i:to-i]
		}
		if now == nil || !bytes.HasPrefix(code[from:], now) {
			continue
		}
		if &out[0] == &code[0] {
			out = bytes.Clone(code)
		}
		copy(out[from:], before)
	}
	return out
}
