package xen

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// release reads Xen's version from the functions that return it
// (common/version.c): the numbers are in their code, "MOV EAX, imm32", and the
// rest is the string to which xen_extra_version returns a pointer, "LEA RAX,
// [RIP + rel32]". Empty if they are other code.
func release(symbols *kernel.Symbols, read func(at mem.Virt, n int) []byte) string {
	code := func(name string) ([]byte, mem.Virt) {
		v, ok := symbols.Address(name)
		if !ok {
			return nil, 0
		}
		b, at := read(mem.Virt(v), 16), mem.Virt(v)
		if rest, ok := bytes.CutPrefix(b, endbr64); ok {
			return rest, at + mem.Virt(len(endbr64))
		}
		return b, at
	}
	var number [2]uint32
	for i, name := range []string{"xen_major_version", "xen_minor_version"} {
		switch b, _ := code(name); {
		case len(b) >= 5 && b[0] == 0xb8:
			number[i] = le32(b[1:])
		case !bytes.HasPrefix(b, []byte{0x31, 0xc0}): // XOR EAX, EAX
			return ""
		}
	}
	b, at := code("xen_extra_version")
	if !bytes.HasPrefix(b, []byte{0x48, 0x8d, 0x05}) || len(b) < 7 {
		return ""
	}
	extra := read(at+7+mem.Virt(int64(int32(le32(b[3:])))), 64)
	n := bytes.IndexByte(extra, 0)
	if n < 0 || bytes.ContainsFunc(extra[:n], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return fmt.Sprintf("%d.%d%s", number[0], number[1], extra[:n])
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// Before reports whether the image is older than a version; one whose version
// could not be read is not.
func (img *Image) Before(major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(img.Release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a < major || a == major && b < minor
}
