package kernel

import (
	"bytes"

	"golang.org/x/arch/x86/x86asm"
)

// maxInstruction is how long an instruction can be, in bytes (Intel SDM vol. 2,
// 2.3.11).
const maxInstruction = 15

// step decodes an instruction and notes what it does to registers. It is false for
// those that may do more to them than writing to their first operand.
func (known *loaded) step(code []byte) (int, bool) {
	if bytes.HasPrefix(code, endbr64) || bytes.HasPrefix(code, sealed) {
		return 4, true
	}
	inst, err := x86asm.Decode(code[:min(len(code), maxInstruction)], 64)
	if err != nil {
		return 0, false
	}
	writes, ok := writesFirst[inst.Op]
	if !ok {
		return 0, false
	}
	to, ok := inst.Args[0].(x86asm.Reg)
	if !ok || !writes {
		return inst.Len, true
	}
	into, ok := whole(to)
	if ok {
		known[into] = known.moved(inst)
	}
	return inst.Len, true
}

// moved is what is known of a register that an instruction writes to: it is copied
// from another one, or loaded from the object that one points to.
func (known *loaded) moved(inst x86asm.Inst) *Called {
	if inst.Op != x86asm.MOV || inst.DataSize != 64 {
		return nil
	}
	switch from := inst.Args[1].(type) {
	case x86asm.Reg:
		if i, ok := whole(from); ok {
			return known[i]
		}
	case x86asm.Mem:
		base, ok := whole(from.Base)
		if !ok || from.Index != 0 || from.Segment != 0 || from.Disp < 0 || from.Disp >= maxCalledOffset || from.Disp&7 != 0 {
			return nil
		}
		if c := known[base]; c != nil && !c.Object {
			return &Called{At: c.At, Object: true, Offset: uint32(from.Disp)}
		}
	}
	return nil
}

// maxCalledOffset bounds where in an object a pointer to a function is, in bytes.
const maxCalledOffset = 1 << 14

// whole returns the number of the 64-bit register that a general register is a
// part of.
func whole(r x86asm.Reg) (int, bool) {
	for _, group := range [][2]x86asm.Reg{{x86asm.RAX, x86asm.R15}, {x86asm.EAX, x86asm.R15L}, {x86asm.AX, x86asm.R15W}, {x86asm.AL, x86asm.BL}, {x86asm.AH, x86asm.BH}} {
		if r >= group[0] && r <= group[1] {
			return int(r - group[0]), true
		}
	}
	if r >= x86asm.SPB && r <= x86asm.R15B {
		return int(r-x86asm.SPB) + 4, true
	}
	return 0, false
}

// writesFirst are the instructions that may be between a load and a branch, and
// whether they write to their first operand, which is then the only register that
// they change. Conditional jumps are among them: what follows one is reached.
var writesFirst = map[x86asm.Op]bool{
	x86asm.MOV: true, x86asm.MOVZX: true, x86asm.MOVSX: true, x86asm.MOVSXD: true, x86asm.LEA: true, x86asm.POP: true,
	x86asm.ADD: true, x86asm.ADC: true, x86asm.SUB: true, x86asm.SBB: true, x86asm.INC: true, x86asm.DEC: true, x86asm.NEG: true,
	x86asm.AND: true, x86asm.OR: true, x86asm.XOR: true, x86asm.NOT: true, x86asm.BSWAP: true,
	x86asm.SHL: true, x86asm.SHR: true, x86asm.SAR: true, x86asm.ROL: true, x86asm.ROR: true,
	x86asm.SETA: true, x86asm.SETAE: true, x86asm.SETB: true, x86asm.SETBE: true, x86asm.SETE: true, x86asm.SETNE: true,
	x86asm.SETG: true, x86asm.SETGE: true, x86asm.SETL: true, x86asm.SETLE: true, x86asm.SETS: true, x86asm.SETNS: true,
	x86asm.CMOVA: true, x86asm.CMOVAE: true, x86asm.CMOVB: true, x86asm.CMOVBE: true, x86asm.CMOVE: true, x86asm.CMOVNE: true,
	x86asm.CMOVG: true, x86asm.CMOVGE: true, x86asm.CMOVL: true, x86asm.CMOVLE: true, x86asm.CMOVS: true, x86asm.CMOVNS: true,
	x86asm.CMP: false, x86asm.TEST: false, x86asm.BT: false, x86asm.PUSH: false, x86asm.NOP: false, x86asm.LFENCE: false,
	x86asm.JA: false, x86asm.JAE: false, x86asm.JB: false, x86asm.JBE: false, x86asm.JE: false, x86asm.JNE: false,
	x86asm.JG: false, x86asm.JGE: false, x86asm.JL: false, x86asm.JLE: false, x86asm.JS: false, x86asm.JNS: false,
}
