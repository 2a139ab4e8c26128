// The rest of a function that hashes n blocks of 16 lanes, arguments
// (w *words, at *[maxLanes]*byte, n int), in terms of NEXT and ROUND.
// Registers: Z0 to Z7 the words A to H of the state, a message in each lane; Z16 to
// Z31 the 16 words of the schedule that are in use; Z8 to Z15 scratch.

// REST is the end of NEXT: Maj and Sigma0, which the new A in H has beside the new E,
// and in W0, where sigma0 is still to be added from Z14 and what sigma1 begins with is
// in Z15, the rest of the word 16 rounds on.
#define REST(A, B, C, H, W0, W14) \
	VMOVDQA64   A, Z8;                  \
	VPRORD      $13, A, Z9;             \
	VPRORD      $2, A, Z13;             \
	VPTERNLOGD  $0xe8, C, B, Z8;        \
	VPADDD      Z8, H, H;               \
	VPRORD      $22, A, Z8;             \
	VPTERNLOGD  $0x96, Z9, Z8, Z13;     \
	VPADDD      Z13, H, H;              \
	VPRORD      $19, W14, Z12;          \
	VPADDD      Z14, W0, W0;            \
	VPSRLD      $10, W14, Z9;           \
	VPTERNLOGD  $0x96, Z12, Z9, Z15;    \
	VPADDD      Z15, W0, W0

// LOAD reads a message's block, words swapped to the machine's order.
#define LOAD(OFF, P, Z) \
	MOVQ      OFF(SI), P;      \
	VMOVDQU32 (P)(BX*1), Z;    \
	VPSHUFB   Z15, Z, Z

// Messages come as rows and are needed as columns. QUAD turns squares of 4
// words: word 4L+j of messages R0 to R3 goes to quarter L of Rj.
#define QUAD(R0, R1, R2, R3) \
	VPUNPCKLDQ  R1, R0, Z8;  \
	VPUNPCKHDQ  R1, R0, Z9;  \
	VPUNPCKLDQ  R3, R2, Z10; \
	VPUNPCKHDQ  R3, R2, Z11; \
	VPUNPCKLQDQ Z10, Z8, R0; \
	VPUNPCKHQDQ Z10, Z8, R1; \
	VPUNPCKLQDQ Z11, Z9, R2; \
	VPUNPCKHQDQ Z11, Z9, R3

// CROSS turns the square of quarters: quarter L of Rg goes to quarter g of RL.
#define CROSS(R0, R1, R2, R3) \
	VSHUFI32X4 $0x88, R1, R0, Z8;  \
	VSHUFI32X4 $0xdd, R1, R0, Z9;  \
	VSHUFI32X4 $0x88, R3, R2, Z10; \
	VSHUFI32X4 $0xdd, R3, R2, Z11; \
	VSHUFI32X4 $0x88, Z10, Z8, R0; \
	VSHUFI32X4 $0x88, Z11, Z9, R1; \
	VSHUFI32X4 $0xdd, Z10, Z8, R2; \
	VSHUFI32X4 $0xdd, Z11, Z9, R3

	MOVQ  w+0(FP), DI
	MOVQ  at+8(FP), SI
	MOVQ  n+16(FP), CX
	XORQ  BX, BX
	LEAQ  ·constants(SB), DX
	VMOVDQU32 0(DI), Z0
	VMOVDQU32 64(DI), Z1
	VMOVDQU32 128(DI), Z2
	VMOVDQU32 192(DI), Z3
	VMOVDQU32 256(DI), Z4
	VMOVDQU32 320(DI), Z5
	VMOVDQU32 384(DI), Z6
	VMOVDQU32 448(DI), Z7
	TESTQ CX, CX
	JLE   done

loop:
	VBROADCASTI32X4 swapWords<>(SB), Z15

	LOAD(0, R8, Z16)
	LOAD(8, R9, Z17)
	LOAD(16, R10, Z18)
	LOAD(24, R11, Z19)
	QUAD(Z16, Z17, Z18, Z19)
	LOAD(32, R8, Z20)
	LOAD(40, R9, Z21)
	LOAD(48, R10, Z22)
	LOAD(56, R11, Z23)
	QUAD(Z20, Z21, Z22, Z23)
	LOAD(64, R8, Z24)
	LOAD(72, R9, Z25)
	LOAD(80, R10, Z26)
	LOAD(88, R11, Z27)
	QUAD(Z24, Z25, Z26, Z27)
	LOAD(96, R8, Z28)
	LOAD(104, R9, Z29)
	LOAD(112, R10, Z30)
	LOAD(120, R11, Z31)
	QUAD(Z28, Z29, Z30, Z31)
	CROSS(Z16, Z20, Z24, Z28)
	CROSS(Z17, Z21, Z25, Z29)
	CROSS(Z18, Z22, Z26, Z30)
	CROSS(Z19, Z23, Z27, Z31)

	MOVQ DX, AX
	MOVQ $3, R12

rounds:
	NEXT(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, Z17, Z25, Z30, 0)
	NEXT(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, Z18, Z26, Z31, 4)
	NEXT(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, Z19, Z27, Z16, 8)
	NEXT(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, Z20, Z28, Z17, 12)
	NEXT(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, Z21, Z29, Z18, 16)
	NEXT(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, Z22, Z30, Z19, 20)
	NEXT(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, Z23, Z31, Z20, 24)
	NEXT(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, Z24, Z16, Z21, 28)
	NEXT(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, Z25, Z17, Z22, 32)
	NEXT(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, Z26, Z18, Z23, 36)
	NEXT(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, Z27, Z19, Z24, 40)
	NEXT(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, Z28, Z20, Z25, 44)
	NEXT(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, Z29, Z21, Z26, 48)
	NEXT(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, Z30, Z22, Z27, 52)
	NEXT(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, Z31, Z23, Z28, 56)
	NEXT(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, Z16, Z24, Z29, 60)
	ADDQ $64, AX
	DECQ R12
	JNZ  rounds

	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 4)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 8)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 12)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 16)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 20)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 24)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 28)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, 32)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, 36)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, 40)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, 44)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, 48)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, 52)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, 56)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, 60)

	VPADDD    0(DI), Z0, Z0
	VPADDD    64(DI), Z1, Z1
	VPADDD    128(DI), Z2, Z2
	VPADDD    192(DI), Z3, Z3
	VPADDD    256(DI), Z4, Z4
	VPADDD    320(DI), Z5, Z5
	VPADDD    384(DI), Z6, Z6
	VPADDD    448(DI), Z7, Z7
	VMOVDQU32 Z0, 0(DI)
	VMOVDQU32 Z1, 64(DI)
	VMOVDQU32 Z2, 128(DI)
	VMOVDQU32 Z3, 192(DI)
	VMOVDQU32 Z4, 256(DI)
	VMOVDQU32 Z5, 320(DI)
	VMOVDQU32 Z6, 384(DI)
	VMOVDQU32 Z7, 448(DI)

	ADDQ $64, BX
	DECQ CX
	JNZ  loop

done:
	VZEROUPPER
	RET

// Words of the message are big-endian.
DATA swapWords<>+0(SB)/8, $0x0405060700010203
DATA swapWords<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swapWords<>(SB), RODATA|NOPTR, $16
