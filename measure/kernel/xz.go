package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// The XZ container (tukaani.org/xz/xz-file-format.txt, version 1.2.1). It is
// read here because kernels are compressed with the x86 filter in front of
// LZMA2 (scripts/xz_wrap.sh), which the pinned library refuses.

var xzMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}

const (
	xzFilterX86   = 0x04
	xzFilterLZMA2 = 0x21
)

// unxz decompresses one stream.
func unxz(in []byte, limit int) ([]byte, error) {
	c := bin.Little(in)
	c.Skip(len(xzMagic) + 1)
	check := c.U8() & 0x0f
	c.Skip(4) // CRC32 of the flags
	var out []byte
	for c.Err() == nil && c.Len() > 0 {
		start := c.Offset()
		if in[start] == 0 { // the index: no more blocks
			return out, nil
		}
		block, end, err := xzBlock(in, start, limit-len(out), check)
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
		c.Seek(end)
	}
	return nil, fmt.Errorf("%w: xz: %w", ErrFormat, io.ErrUnexpectedEOF)
}

// xzBlock decodes the block at start and returns where the next one starts.
func xzBlock(in []byte, start, limit int, check byte) (out []byte, end int, err error) {
	header, x86, dict, err := xzBlockHeader(in[start:])
	if err != nil {
		return nil, 0, err
	}
	r := bytes.NewReader(in[start+header:])
	plain, err := lzma.Reader2Config{DictCap: dict}.NewReader2(r)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: xz: %w", ErrFormat, err)
	}
	if out, err = readBounded("xz", plain, limit); err != nil {
		return nil, 0, err
	}
	if x86 {
		undoX86Filter(out)
	}
	used := len(in) - start - header - r.Len()
	end = start + header + (used+3)&^3
	size, ok := xzCheck(check, in, end, out)
	if !ok {
		return nil, 0, fmt.Errorf("%w: xz: checksum does not match", ErrFormat)
	}
	return out, end + size, nil
}

// xzBlockHeader reads section 3.1 of the format: its size, whether the x86
// filter is on, and the dictionary's size.
func xzBlockHeader(in []byte) (size int, x86 bool, dict int, err error) {
	c := bin.Little(in)
	size = (int(c.U8()) + 1) * 4
	if size > len(in) || crc32.ChecksumIEEE(in[:size-4]) != binary.LittleEndian.Uint32(in[size-4:]) {
		return 0, false, 0, fmt.Errorf("%w: xz block header", ErrFormat)
	}
	flags := c.U8()
	for _, present := range []byte{0x40, 0x80} { // compressed and uncompressed size
		for more := flags&present != 0; more && c.Err() == nil; {
			more = c.U8()&0x80 != 0
		}
	}
	for range int(flags&3) + 1 {
		id, properties := c.U8(), c.Bytes(int(c.U8()))
		switch {
		case id == xzFilterX86 && len(properties) == 0:
			x86 = true
		case id == xzFilterLZMA2 && len(properties) == 1 && properties[0] <= 37:
			bits := properties[0]
			dict = int(2|bits&1) << (bits/2 + 11)
		default:
			return 0, false, 0, fmt.Errorf("%w: xz filter %#x is not supported", ErrFormat, id)
		}
	}
	if c.Err() != nil || dict == 0 {
		return 0, false, 0, fmt.Errorf("%w: xz block header", ErrFormat)
	}
	return size, x86, min(dict, maxKernelFile), nil
}

// xzCheck verifies a block's checksum and returns its size. SHA-256 is not
// computed: no kernel's decompressor knows it.
func xzCheck(kind byte, in []byte, at int, out []byte) (size int, ok bool) {
	size = []int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[kind&0x0f]
	if at+size > len(in) {
		return 0, false
	}
	switch kind {
	case 0:
		return size, true
	case 1:
		return size, binary.LittleEndian.Uint32(in[at:]) == crc32.ChecksumIEEE(out)
	case 4:
		return size, binary.LittleEndian.Uint64(in[at:]) == crc64.Checksum(out, crc64.MakeTable(crc64.ECMA))
	}
	return 0, false
}

// undoX86Filter turns the absolute targets that the filter gave to CALL and JMP
// back into relative ones. The filter leaves alone what is unlikely to be an
// instruction: a top byte that is neither 0x00 nor 0xff, and opcodes close to
// another one, for which mask remembers the last positions.
func undoX86Filter(b []byte) {
	plausible := func(top byte) bool { return top == 0 || top == 0xff }
	shift := [8]uint{0, 1, 2, 2, 3, 3, 3, 3}
	allowed := [8]bool{true, true, true, false, true, false, false, false}
	mask, previous := uint32(0), -1
	for i := 0; i+4 < len(b); i++ {
		if b[i]&0xfe != 0xe8 {
			continue
		}
		distance := i - previous
		previous = i
		if distance > 3 {
			mask = 0
		} else if mask = mask << (distance - 1) & 7; mask != 0 {
			if !allowed[mask] || plausible(b[i+4-int(shift[mask])]) {
				mask = mask<<1 | 1
				continue
			}
		}
		if !plausible(b[i+4]) {
			mask = mask<<1 | 1
			continue
		}
		target := binary.LittleEndian.Uint32(b[i+1:])
		relative := target - uint32(i+5)
		for mask != 0 {
			bits := shift[mask] * 8
			if !plausible(byte(relative >> (24 - bits))) {
				break
			}
			target = relative ^ (1<<(32-bits) - 1)
			relative = target - uint32(i+5)
		}
		relative &= 0x01ffffff
		relative |= -(relative & 0x01000000)
		binary.LittleEndian.PutUint32(b[i+1:], relative)
		i += 4
	}
}
