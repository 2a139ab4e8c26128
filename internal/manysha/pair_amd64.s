#include "textflag.h"

// The SHA extensions: Intel SDM volume 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2.
// Registers: X1, X2 the state of lane a as SHA256RNDS2 wants it, X3 to X6 its
// message; X7, X8 and X9 to X12 those of lane b; X14 swaps bytes; X0 is the
// implied operand of SHA256RNDS2, X13 scratch. The lanes depend on nothing of
// each other, so the processor works on one while it waits for the other.

// LOAD reads 4 words of the message.
#define LOAD(OFF, P, M) \
	MOVOU  OFF(P), M; \
	PSHUFB X14, M

// ROUNDS does 4 rounds with 4 words of the message and their constants.
#define ROUNDS(OFF, M, ABEF, CDGH) \
	MOVOU       OFF(AX), X0;      \
	PADDD       M, X0;            \
	SHA256RNDS2 X0, ABEF, CDGH;   \
	PSHUFD      $0x0e, X0, X0;    \
	SHA256RNDS2 X0, CDGH, ABEF

// SCHEDULE replaces the oldest 4 words, M0, by the next 4.
#define SCHEDULE(M0, M1, M2, M3) \
	SHA256MSG1 M1, M0;       \
	MOVO       M3, X13;      \
	PALIGNR    $4, M2, X13;  \
	PADDD      X13, M0;      \
	SHA256MSG2 M3, M0

#define BOTH(OFF, A, B) \
	ROUNDS(OFF, A, X1, X2); \
	ROUNDS(OFF, B, X7, X8)

// NEXT is SCHEDULE and ROUNDS in both lanes.
#define NEXT(OFF, A0, A1, A2, A3, B0, B1, B2, B3) \
	SCHEDULE(A0, A1, A2, A3); \
	SCHEDULE(B0, B1, B2, B3); \
	BOTH(OFF, A0, B0)

// func blocks2(a, b *state, pa, pb *byte, n int)
TEXT ·blocks2(SB), NOSPLIT, $64-40
	MOVQ  a+0(FP), DI
	MOVQ  b+8(FP), R8
	MOVQ  pa+16(FP), SI
	MOVQ  pb+24(FP), R9
	MOVQ  n+32(FP), CX
	LEAQ  ·constants(SB), AX
	MOVOU swap<>(SB), X14
	MOVOU (DI), X1
	MOVOU 16(DI), X2
	MOVOU (R8), X7
	MOVOU 16(R8), X8
	TESTQ CX, CX
	JLE   done

loop:
	MOVOU X1, 0(SP)
	MOVOU X2, 16(SP)
	MOVOU X7, 32(SP)
	MOVOU X8, 48(SP)

	LOAD(0, SI, X3)
	LOAD(0, R9, X9)
	BOTH(0, X3, X9)
	LOAD(16, SI, X4)
	LOAD(16, R9, X10)
	BOTH(16, X4, X10)
	LOAD(32, SI, X5)
	LOAD(32, R9, X11)
	BOTH(32, X5, X11)
	LOAD(48, SI, X6)
	LOAD(48, R9, X12)
	BOTH(48, X6, X12)

	NEXT(64, X3, X4, X5, X6, X9, X10, X11, X12)
	NEXT(80, X4, X5, X6, X3, X10, X11, X12, X9)
	NEXT(96, X5, X6, X3, X4, X11, X12, X9, X10)
	NEXT(112, X6, X3, X4, X5, X12, X9, X10, X11)
	NEXT(128, X3, X4, X5, X6, X9, X10, X11, X12)
	NEXT(144, X4, X5, X6, X3, X10, X11, X12, X9)
	NEXT(160, X5, X6, X3, X4, X11, X12, X9, X10)
	NEXT(176, X6, X3, X4, X5, X12, X9, X10, X11)
	NEXT(192, X3, X4, X5, X6, X9, X10, X11, X12)
	NEXT(208, X4, X5, X6, X3, X10, X11, X12, X9)
	NEXT(224, X5, X6, X3, X4, X11, X12, X9, X10)
	NEXT(240, X6, X3, X4, X5, X12, X9, X10, X11)

	MOVOU 0(SP), X0
	PADDD X0, X1
	MOVOU 16(SP), X0
	PADDD X0, X2
	MOVOU 32(SP), X0
	PADDD X0, X7
	MOVOU 48(SP), X0
	PADDD X0, X8

	ADDQ $64, SI
	ADDQ $64, R9
	DECQ CX
	JNZ  loop

	MOVOU X1, (DI)
	MOVOU X2, 16(DI)
	MOVOU X7, (R8)
	MOVOU X8, 16(R8)

done:
	RET

// Words of the message are big-endian.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// func cpuid(leaf, sub uint32) (a, b, c, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET
