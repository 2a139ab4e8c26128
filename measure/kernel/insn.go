package kernel

import (
	"bytes"
	"encoding/binary"
)

// Instructions that a kernel writes over its text (Intel SDM vol. 2;
// arch/x86/include/asm/text-patching.h).
const (
	opCall  = 0xe8
	opJump  = 0xe9
	opShort = 0xeb
	opRet   = 0xc3
	opInt3  = 0xcc
	opNop   = 0x90
	opLock  = 0xf0
	opDS    = 0x3e
)

// nop returns the one NOP that kernels use for a length of 1 to 8 bytes
// (arch/x86/include/asm/nops.h, p6_nops).
func nop(n int) []byte {
	return [...][]byte{nil, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0x00},
		{0x0f, 0x1f, 0x44, 0x00, 0x00}, {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
		{0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00}, {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}}[n]
}

// isAtomicNop reports whether code is one NOP of its own length, as ftrace, jump
// labels and static calls need it: besides that of today the one that kernels
// before 5.13 use on AMD's K8 and what says it is one (ideal_nops).
func isAtomicNop(code []byte) bool {
	n := len(code)
	return n <= 8 && bytes.Equal(code, nop(n)) || n > 1 && n <= 5 && bytes.Equal(code, append(bytes.Repeat([]byte{0x66}, n-1), opNop))
}

// nopLength returns the length of the NOP that code starts with, 0 if it starts
// with something else: NOP (0x90) or NOP r/m (0x0f 0x1f) with one of the operands
// that assemblers and kernels give it, all zero, behind operand-size and CS
// prefixes.
func nopLength(code []byte) int {
	i := 0
	for i < len(code) && i < 8 && (code[i] == 0x66 || code[i] == 0x2e) {
		i++
	}
	if i < len(code) && code[i] == opNop {
		return i + 1
	}
	for n := 3; n <= 8; n++ {
		if long := nop(n); long[0] == 0x0f && bytes.HasPrefix(code[i:], long) {
			return i + n
		}
	}
	return 0
}

// isPadding reports whether executing code from its start does nothing but
// reach its end: NOPs, or since 6.3 one jump over the rest, which is then INT3.
func isPadding(code []byte) bool {
	for i := 0; i < len(code); {
		if n := nopLength(code[i:]); n > 0 {
			i += n
			continue
		}
		rest := code[i:]
		switch {
		case len(rest) >= 2 && rest[0] == opShort && int(int8(rest[1])) == len(rest)-2:
			return allInt3(rest[2:])
		case len(rest) >= 5 && rest[0] == opJump && int(rel32(rest[1:])) == len(rest)-5:
			return allInt3(rest[5:])
		}
		return false
	}
	return true
}

func allInt3(code []byte) bool {
	for _, b := range code {
		if b != opInt3 {
			return false
		}
	}
	return true
}

func rel32(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }

// branch encodes a five-byte CALL or JMP at an address.
func branch(op byte, at, target uint64) []byte {
	return binary.LittleEndian.AppendUint32([]byte{op}, uint32(target-at-5))
}

// branchTarget decodes a five-byte CALL or JMP.
func branchTarget(code []byte, at uint64) (op byte, target uint64, ok bool) {
	if len(code) < 5 || code[0] != opCall && code[0] != opJump {
		return 0, 0, false
	}
	return code[0], at + 5 + uint64(int64(rel32(code[1:]))), true
}

// padded returns code, filled up to size with bytes of fill.
func padded(code []byte, size int, fill byte) []byte {
	out := make([]byte, size)
	for i := copy(out, code); i < size; i++ {
		out[i] = fill
	}
	return out
}
