package ext4

import (
	"bytes"
	"math/bits"
)

// Hashes of names in directories: Documentation/filesystems/ext4/directory.rst,
// "Hash Tree Directories", and fs/ext4/hash.c (6.12). The numbers are those of
// dx_root's hash_version.
const (
	hashLegacy  = 0
	hashHalfMD4 = 1
	hashTEA     = 2

	// hashEnd is no name's hash: it ends a listing.
	hashEnd = 0x7FFFFFFF << 1
)

// Bits of the superblock's flags (0x160): how characters were taken. Without either
// it is as the kernel was built.
const (
	signsSigned   = 1
	signsUnsigned = 2
)

// nameHash hashes one name.
type nameHash struct {
	version  byte
	seed     [4]uint32
	signs    uint32
	caseless bool
}

// in says whether one of the hashes that the name may have is in the range. In a
// directory that ignores case only names in ASCII can be told: folding others takes
// the tables of Unicode.
func (h *nameHash) in(name []byte, r hashRange) bool {
	ascii := bytes.IndexFunc(name, func(c rune) bool { return c >= 0x80 }) < 0
	if h.caseless {
		if !ascii {
			return true
		}
		name = bytes.ToLower(name)
	}
	switch {
	case h.signs&signsUnsigned != 0: // it wins over the other (ext4_hash_info_init)
		return r.has(h.sum(name, false))
	case ascii || h.signs&signsSigned != 0:
		return r.has(h.sum(name, true))
	}
	return r.has(h.sum(name, true)) || r.has(h.sum(name, false))
}

// sum is ext4fs_dirhash. Its lowest bit is free: in a tree it says that names of this
// hash begin in the block before.
func (h *nameHash) sum(name []byte, signed bool) uint32 {
	state := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if h.seed != [4]uint32{} {
		state = h.seed
	}
	var sum uint32
	var words [8]uint32
	switch h.version {
	case hashLegacy:
		sum = legacySum(name, signed)
	case hashHalfMD4:
		for ; len(name) > 0; name = name[min(len(name), 32):] {
			nameWords(words[:], name, signed)
			halfMD4(&state, &words)
		}
		sum = state[1]
	case hashTEA:
		for ; len(name) > 0; name = name[min(len(name), 16):] {
			nameWords(words[:4], name, signed)
			tea(&state, &words)
		}
		sum = state[0]
	}
	if sum &^= 1; sum == hashEnd {
		sum -= 2
	}
	return sum
}

func character(c byte, signed bool) uint32 {
	if signed {
		return uint32(int8(c))
	}
	return uint32(c)
}

// nameWords packs a name into words, the rest filled with its length
// (str2hashbuf_signed, str2hashbuf_unsigned).
func nameWords(words []uint32, name []byte, signed bool) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	name = name[:min(len(name), 4*len(words))]
	for i := range words {
		words[i] = pad
		for _, c := range name[:min(4, len(name))] {
			words[i] = words[i]<<8 + character(c, signed)
		}
		name = name[min(4, len(name)):]
	}
}

// legacySum is dx_hack_hash_signed, dx_hack_hash_unsigned.
func legacySum(name []byte, signed bool) uint32 {
	last, before := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for _, c := range name {
		sum := before + (last ^ character(c, signed)*7152373)
		if sum&0x80000000 != 0 {
			sum -= 0x7fffffff
		}
		last, before = sum, last
	}
	return last << 1
}

// tea is TEA_transform: 16 rounds of the Tiny Encryption Algorithm.
func tea(state *[4]uint32, in *[8]uint32) {
	x, y, sum := state[0], state[1], uint32(0)
	for range 16 {
		sum += 0x9E3779B9
		x += (y<<4 + in[0]) ^ (y + sum) ^ (y>>5 + in[1])
		y += (x<<4 + in[2]) ^ (x + sum) ^ (x>>5 + in[3])
	}
	state[0] += x
	state[1] += y
}

// halfMD4 is half_md4_transform: three rounds over eight words with the functions
// and constants of RFC 1320.
func halfMD4(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	turn := func(f, word uint32, shift int) {
		a, b, c, d = d, bits.RotateLeft32(a+f+word, shift), b, c
	}
	for _, r := range [...]struct {
		add    uint32
		shifts [4]int
		order  [8]int
	}{
		{0, [4]int{3, 7, 11, 19}, [8]int{0, 1, 2, 3, 4, 5, 6, 7}},
		{0x5A827999, [4]int{3, 5, 9, 13}, [8]int{1, 3, 5, 7, 0, 2, 4, 6}},
		{0x6ED9EBA1, [4]int{3, 9, 11, 15}, [8]int{3, 7, 2, 6, 1, 5, 0, 4}},
	} {
		for i, n := range r.order {
			f := b ^ c ^ d
			switch r.add {
			case 0:
				f = d ^ b&(c^d)
			case 0x5A827999:
				f = b&c + (b^c)&d
			}
			turn(f, in[n]+r.add, r.shifts[i%4])
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
