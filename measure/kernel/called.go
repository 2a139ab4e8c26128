package kernel

import (
	"cmp"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Called is a variable that text calls through: it holds a pointer to a function,
// or one to an object that has such a pointer at an offset.
type Called struct {
	At     mem.Virt
	Object bool
	Offset uint32 // bytes; 0 without an object
}

// Called lists the variables at fixed addresses that the kernel's own text calls
// through, in ascending order. No type says which these are: BTF has no variables
// but per-CPU ones. The code does: it loads the variable into a register, or from
// there what is at an offset, and branches to where that points, by way of a
// retpoline or not. Text is as the target has it. A load that a branch or a call
// comes between, or that is more than a few instructions away, is not found, nor is
// one of an element of an array.
func (p *Profile) Called() []Called {
	return p.Derived(calledKey{}, func() any { return p.findCalled() }).([]Called)
}

type calledKey struct{}

func (p *Profile) findCalled() []Called {
	start, ok1 := p.Symbol("_stext")
	end, ok2 := p.Symbol("_etext")
	if !ok1 || !ok2 || end < start || end > p.End {
		return nil
	}
	text := make([]byte, end-start)
	if p.Space.Read(text, start) != nil {
		return nil
	}
	f := callFinder{text: text, base: uint64(start), thunks: make(map[uint64]int), found: make(map[Called]bool)}
	for _, s := range p.Symbols.WithPrefix("__x86_indirect_") {
		if r, ok := thunkedBy(s.Name); ok {
			f.thunks[s.Addr] = r
		}
	}
	for _, bounds := range [][2]string{{"_sdata", "_edata"}, {"__start_ro_after_init", "__end_ro_after_init"}, {"__bss_start", "__bss_stop"}} {
		from, ok1 := p.Symbol(bounds[0])
		to, ok2 := p.Symbol(bounds[1])
		if ok1 && ok2 {
			f.data = append(f.data, [2]uint64{uint64(from), uint64(to)})
		}
	}
	return f.all()
}

// thunkedBy returns the register that a thunk branches through, by its name:
// __x86_indirect_thunk_rax, and those of calls and jumps with call depth tracking
// (arch/x86/lib/retpoline.S).
func thunkedBy(symbol string) (int, bool) {
	_, name, _ := strings.Cut(symbol, "_thunk_")
	i := slices.Index(registers, name)
	return i, i >= 0
}

// callFinder looks for calls through variables.
type callFinder struct {
	text   []byte
	base   uint64
	thunks map[uint64]int // the register of each
	data   [][2]uint64    // where variables are
	found  map[Called]bool
}

// calledWithin is how many bytes before a branch the load is looked for.
const calledWithin = 96

func (f *callFinder) all() []Called {
	for at := range f.text {
		if r, ok := f.indirect(at); ok {
			f.site(at, r)
		}
	}
	out := make([]Called, 0, len(f.found))
	for c := range f.found {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Called) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Offset, b.Offset), compareBool(a.Object, b.Object))
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// indirect reports through which register an instruction branches, if one that
// does starts at an offset: CALL or JMP to a thunk, or CALL or JMP r64 (FF /2, /4).
func (f *callFinder) indirect(at int) (int, bool) {
	switch code := f.text[at:]; {
	case (code[0] == opCall || code[0] == opJump) && len(code) >= 5:
		r, ok := f.thunks[f.base+uint64(at)+5+uint64(int64(rel32(code[1:])))]
		return r, ok
	case code[0] == 0xff && len(code) >= 2 && (code[1]&0xf8 == 0xd0 || code[1]&0xf8 == 0xe0):
		r := int(code[1] & 7)
		if at > 0 && f.text[at-1] == 0x41 { // REX.B
			r += 8
		}
		return r, true
	}
	return 0, false
}

// site looks for a load before a branch: MOV r64, [RIP+disp32], that is REX.W 8B
// /r with mod 0 and rm 5.
func (f *callFinder) site(at, register int) {
	for from := max(at-calledWithin, 0); from+7 <= at; from++ {
		code := f.text[from:]
		if code[0]&0xfb != 0x48 || code[1] != 0x8b || code[2]&0xc7 != 5 {
			continue
		}
		variable := f.base + uint64(from) + 7 + uint64(int64(rel32(code[3:])))
		if variable&7 == 0 && f.holds(variable) {
			f.follow(from, at, mem.Virt(variable), register)
		}
	}
}

// holds reports whether an address is one of a variable.
func (f *callFinder) holds(at uint64) bool {
	return slices.ContainsFunc(f.data, func(d [2]uint64) bool { return at >= d[0] && at < d[1] })
}

// loaded is what is known of each register: what was loaded from where.
type loaded [16]*Called

// follow goes from a load to a branch, and notes what is known then of the
// register that the branch goes through.
func (f *callFinder) follow(from, to int, variable mem.Virt, register int) {
	var known loaded
	for at := from; at <= to; {
		if at == to || at == to-1 && f.text[at] == 0x41 {
			if c := known[register]; c != nil {
				f.found[*c] = true
			}
			return
		}
		n, ok := known.step(f.text[at:])
		if !ok {
			return
		}
		if at == from {
			number := f.text[at]&4<<1 | f.text[at+2]>>3&7 // REX.R, ModRM.reg
			known[number] = &Called{At: variable}
		}
		at += n
	}
}
