package manysha

import "encoding/binary"

// words are the states of all lanes: A of each, then B of each, to H.
type words [8][maxLanes]uint32

// initial is FIPS 180-4, 5.3.3.
var initial = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}

// constants is FIPS 180-4, 4.2.2.
//
//lint:ignore U1000 the assembly uses it
var constants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// begin sets a lane's state to the initial one.
func (w *words) begin(lane int) {
	for i := range w {
		w[i][lane] = initial[i]
	}
}

// put writes a lane's digest: A to H, big-endian.
func (w *words) put(lane int, sum *[Size]byte) {
	for i := range w {
		binary.BigEndian.PutUint32(sum[4*i:], w[i][lane])
	}
}

// state is one lane's in the order in which SHA256RNDS2 has it: F, E, B, A, H,
// G, D, C.
type state [8]uint32

func (w *words) pair(lane int) state {
	return state{w[5][lane], w[4][lane], w[1][lane], w[0][lane], w[7][lane], w[6][lane], w[3][lane], w[2][lane]}
}

func (w *words) unpair(lane int, s *state) {
	w[5][lane], w[4][lane], w[1][lane], w[0][lane] = s[0], s[1], s[2], s[3]
	w[7][lane], w[6][lane], w[3][lane], w[2][lane] = s[4], s[5], s[6], s[7]
}
