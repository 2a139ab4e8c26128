package kernel

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// jitOps are the instructions that the BPF compiler of 5.10 to 7.2 emits, with
// its trampolines and dispatchers.
var jitOps = opSet(
	x86asm.MOV, x86asm.MOVZX, x86asm.MOVSX, x86asm.MOVSXD, x86asm.LEA, x86asm.PUSH, x86asm.POP, x86asm.LEAVE,
	x86asm.ADD, x86asm.SUB, x86asm.AND, x86asm.OR, x86asm.XOR, x86asm.CMP, x86asm.TEST, x86asm.NEG, x86asm.NOT,
	x86asm.MUL, x86asm.IMUL, x86asm.DIV, x86asm.IDIV, x86asm.CDQ, x86asm.CQO,
	x86asm.SHL, x86asm.SHR, x86asm.SAR, x86asm.ROL, x86asm.ROR, x86asm.SHLX, x86asm.SHRX, x86asm.SARX, x86asm.BSWAP,
	x86asm.XADD, x86asm.XCHG, x86asm.CMPXCHG,
	x86asm.NOP, x86asm.PAUSE, x86asm.LFENCE, x86asm.RDTSC,
	x86asm.RET, x86asm.JMP, x86asm.CALL,
	x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JE, x86asm.JNE, x86asm.JG, x86asm.JGE, x86asm.JL, x86asm.JLE,
	x86asm.JS, x86asm.JNS,
)

func opSet(ops ...x86asm.Op) map[x86asm.Op]bool {
	set := make(map[x86asm.Op]bool, len(ops))
	for _, op := range ops {
		set[op] = true
	}
	return set
}

var (
	endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}
	sealed  = []byte{0x66, 0x0f, 0x1f, 0x00} // an ENDBR64 that was taken back
)

var errNotJIT = errors.New("no instruction that it emits")

// decodeJIT decodes one instruction and says what of it the BPF compiler would
// not have emitted.
func decodeJIT(code []byte) (x86asm.Inst, error) {
	if bytes.HasPrefix(code, endbr64) || bytes.HasPrefix(code, sealed) {
		return x86asm.Inst{Op: x86asm.NOP, Len: 4}, nil
	}
	inst, err := x86asm.Decode(code, 64)
	if err != nil {
		return inst, err
	}
	if inst.Op == x86asm.INT && code[0] == opInt3 {
		return inst, nil
	}
	if !jitOps[inst.Op] {
		return inst, fmt.Errorf("%w: %v", errNotJIT, inst.Op)
	}
	if code[0] == 0 { // ADD of bytes: what empty memory decodes to
		return inst, errNotJIT
	}
	for _, arg := range inst.Args {
		if err := jitArgument(inst, arg); err != nil {
			return inst, err
		}
	}
	return inst, nil
}

func jitArgument(inst x86asm.Inst, arg x86asm.Arg) error {
	branch := inst.Op == x86asm.JMP || inst.Op == x86asm.CALL
	switch a := arg.(type) {
	case nil:
	case x86asm.Reg:
		if a < x86asm.AL || a > x86asm.R15 {
			return fmt.Errorf("%w: register %v", errNotJIT, a)
		}
		// Tail calls and dispatchers jump through RCX, RDX or R11, calls that
		// a tracer stands behind go through RBX, each without a retpoline.
		if branch && (inst.Op == x86asm.CALL && a != x86asm.RBX ||
			inst.Op == x86asm.JMP && a != x86asm.RCX && a != x86asm.RDX && a != x86asm.R11) {
			return fmt.Errorf("%w: branch through %v", errNotJIT, a)
		}
	case x86asm.Mem:
		if branch {
			return fmt.Errorf("%w: branch through memory", errNotJIT)
		}
		if a.Segment != 0 && (a.Segment != x86asm.GS || a.Base != 0 || a.Index != 0) {
			return fmt.Errorf("%w: segment %v", errNotJIT, a.Segment)
		}
	}
	return nil
}
