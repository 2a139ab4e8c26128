package linux

import (
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// view reads the guest's memory at one stop. The first read that does not work
// sticks in bad; later values are zero.
type view struct {
	mem trap.Memory
	buf [8]byte
	bad bool
}

// kernelHalf is the lowest address of the kernel's half with 5-level paging
// (Documentation/arch/x86/x86_64/mm.rst). No pointer below it is followed.
const kernelHalf = 0xff00_0000_0000_0000

func (v *view) read(addr uint64, p []byte) bool {
	if addr < kernelHalf || addr+uint64(len(p)) < addr || !v.mem.Read(addr, p) {
		v.bad = true
		return false
	}
	return true
}

func (v *view) u64(addr uint64) uint64 {
	if !v.read(addr, v.buf[:8]) {
		return 0
	}
	return binary.LittleEndian.Uint64(v.buf[:8])
}

func (v *view) u32(addr uint64) uint32 {
	if !v.read(addr, v.buf[:4]) {
		return 0
	}
	return binary.LittleEndian.Uint32(v.buf[:4])
}

func (v *view) u16(addr uint64) uint16 {
	if !v.read(addr, v.buf[:2]) {
		return 0
	}
	return binary.LittleEndian.Uint16(v.buf[:2])
}

// fixed reads a NUL-terminated string from an array into buf.
func (v *view) fixed(addr uint64, buf []byte) []byte {
	if !v.read(addr, buf) {
		return nil
	}
	for i, c := range buf {
		if c == 0 {
			return buf[:i]
		}
	}
	return buf
}

// text reads a NUL-terminated string of at most len(buf) bytes, page by page so
// that it may end right before memory that is not there.
func (v *view) text(addr uint64, buf []byte) []byte {
	n := 0
	for n < len(buf) {
		step := min(len(buf)-n, int(64-(addr+uint64(n))%64))
		if !v.read(addr+uint64(n), buf[n:n+step]) {
			return buf[:n]
		}
		for i := n; i < n+step; i++ {
			if buf[i] == 0 {
				return buf[:i]
			}
		}
		n += step
	}
	return buf
}
