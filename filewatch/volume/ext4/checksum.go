package ext4

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is CRC-32C without the inversions at both ends, as the kernel chains it
// (ext4_chksum).
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

func crcU32(seed, v uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], v)
	return crc(seed, b[:])
}

var zero4 [4]byte

// crc16 is CRC-16 with the reflected polynomial 0xA001, the kernel's lib/crc16.c.
func crc16(sum uint16, b []byte) uint16 {
	for _, c := range b {
		sum ^= uint16(c)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0xA001
			} else {
				sum >>= 1
			}
		}
	}
	return sum
}

// crc32be is CRC-32 with the most significant bit first, the kernel's crc32_be:
// what journals with checksum version 1 use.
func crc32be(sum uint32, b []byte) uint32 {
	for _, c := range b {
		sum ^= uint32(c) << 24
		for range 8 {
			if sum&(1<<31) != 0 {
				sum = sum<<1 ^ 0x04C11DB7
			} else {
				sum <<= 1
			}
		}
	}
	return sum
}
