#include "textflag.h"

// SHA-256 of 16 messages with AVX-512 (FIPS 180-4, 6.2.2), registers as in
// wide_amd64.h. A lane of a register has the word of one message, so rotations are
// VPRORD, and VPTERNLOGD joins three words at once: 0xca is Ch, 0xe8 Maj, 0x96
// exclusive or.

// What a round waits for is the new E: it comes as D+H+K+W+Ch, which is there
// early, plus Sigma1, so that Sigma1 is followed by one addition only.

// ROUND is one of the last 16.
#define ROUND(A, B, C, D, E, F, G, H, W, OFF) \
	VPRORD      $6, E, Z9;            \
	VPRORD      $11, E, Z10;          \
	VMOVDQA64   E, Z12;               \
	VPTERNLOGD  $0xca, G, F, Z12;     \
	VPRORD      $25, E, Z11;          \
	VPADDD.BCST OFF(AX), W, Z8;       \
	VPADDD      Z8, H, H;             \
	VPADDD      H, D, D;              \
	VPADDD      Z12, D, D;            \
	VPTERNLOGD  $0x96, Z10, Z11, Z9;  \
	VPADDD      Z9, D, D;             \
	VPADDD      Z12, H, H;            \
	VPRORD      $2, A, Z13;           \
	VPRORD      $13, A, Z14;          \
	VMOVDQA64   A, Z8;                \
	VPTERNLOGD  $0xe8, C, B, Z8;      \
	VPRORD      $22, A, Z15;          \
	VPADDD      Z9, H, H;             \
	VPADDD      Z8, H, H;             \
	VPTERNLOGD  $0x96, Z14, Z15, Z13; \
	VPADDD      Z13, H, H

// NEXT is ROUND, and replaces W0, the word it used, by the word 16 rounds on:
// W0 + sigma0(W1) + W9 + sigma1(W14). The order is the fastest of some hundred
// tried on a Zen 5.
#define NEXT(A, B, C, D, E, F, G, H, W0, W1, W9, W14, OFF) \
	VPRORD      $11, E, Z10;            \
	VPRORD      $6, E, Z9;              \
	VMOVDQA64   E, Z12;                 \
	VPTERNLOGD  $0xca, G, F, Z12;       \
	VPADDD.BCST OFF(AX), W0, Z8;        \
	VPADDD      Z8, H, H;               \
	VPRORD      $25, E, Z11;            \
	VPADDD      H, D, D;                \
	VPADDD      Z12, D, D;              \
	VPTERNLOGD  $0x96, Z10, Z11, Z9;    \
	VPADDD      Z9, D, D;               \
	VPRORD      $7, W1, Z14;            \
	VPSRLD      $3, W1, Z11;            \
	VPRORD      $17, W14, Z15;          \
	VPADDD      Z12, H, H;              \
	VPADDD      W9, W0, W0;             \
	VPRORD      $18, W1, Z10;           \
	VPTERNLOGD  $0x96, Z10, Z11, Z14;   \
	VPADDD      Z9, H, H;               \
	REST(A, B, C, H, W0, W14)

// func blocks16(w *words, at *[maxLanes]*byte, n int)
TEXT ·blocks16(SB), NOSPLIT, $0-24
#include "wide_amd64.h"
