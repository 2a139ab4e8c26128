package xen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Stubs (x86_64/traps.c, alloc_stub_page and write_stub_trampoline): each CPU has
// StubSize bytes of executable memory of its own, of which the first StubEntry
// lead from SYSCALL in 64-bit and in 32-bit code to Xen's entry points. The rest
// is scratch space of the emulators: what is in it depends on guests.
const (
	StubSize  = 128
	StubEntry = 64
)

// StubsFirst and StubsLast bound where stubs are mapped: a page for each CPU,
// downwards from before the last page of the image's gigabyte. CPUs share the
// page behind it, in which each has its slot.
const (
	StubsFirst = StubsLast + 1 - maxCPUs*mem.PageSize
	StubsLast  = last - mem.PageSize
	maxCPUs    = 4096 // NR_CPUS is 256 in Debian
)

// StubSlot is the offset, in the page mapped at an address in [StubsFirst,
// StubsLast], of the stub of the CPU that the address is for.
func StubSlot(page mem.Virt) mem.Virt {
	cpu := (StubsLast - page) / mem.PageSize
	return cpu % (mem.PageSize / StubSize) * StubSize
}

// Unused reports whether all of code is INT3, with which Xen fills stubs.
func Unused(code []byte) bool {
	for _, c := range code {
		if c != 0xcc {
			return false
		}
	}
	return true
}

// CheckStub says what is wrong with the first StubEntry bytes of a CPU's stub at
// an address.
func (img *Image) CheckStub(at mem.Virt, b []byte) error {
	if len(b) != StubEntry {
		return fmt.Errorf("%d bytes of a stub", len(b))
	}
	var stack uint64
	for _, name := range []string{"lstar_enter", "cstar_enter"} {
		want, ok := img.Symbols.Address(name)
		if !ok {
			return fmt.Errorf("%w: no %s", ErrLayout, name)
		}
		n, target, top, err := trampoline(at, b)
		switch {
		case err != nil:
			return fmt.Errorf("the stub that leads to %s: %w", name, err)
		case uint64(target) != want:
			return fmt.Errorf("the stub that should lead to %s leads to %v (%s)", name, target, img.Name(target))
		case mem.Virt(top) < DirectMap || mem.Virt(top) >= DirectMapEnd || stack != 0 && top != stack:
			return fmt.Errorf("the stub that leads to %s switches to a stack at %#x", name, top)
		}
		stack = top
		at, b = at+mem.Virt(n), b[n:]
	}
	if !Unused(b) {
		return fmt.Errorf("code behind the stubs: %x", b)
	}
	return nil
}

var errStub = errors.New("it is other code than Xen's")

// trampoline decodes one: perhaps ENDBR64, then MOVABS %RAX, (stack); MOV %RSP,
// %RAX; MOVABS $stack, %RSP; JMP target, filled up to 16 bytes with INT3.
func trampoline(at mem.Virt, b []byte) (n int, target mem.Virt, stack uint64, err error) {
	rest := bytes.TrimPrefix(b, endbr64)
	if len(rest) < 28 || !bytes.HasPrefix(rest, []byte{0x48, 0xa3}) || !bytes.Equal(rest[10:15], []byte{0x48, 0x89, 0xe0, 0x48, 0xbc}) ||
		!bytes.Equal(rest[2:10], rest[15:23]) || rest[23] != 0xe9 {
		return 0, 0, 0, errStub
	}
	end := len(b) - len(rest) + 28
	n = (end + 15) &^ 15
	if n > len(b) || !Unused(b[end:n]) {
		return 0, 0, 0, errStub
	}
	target = at + mem.Virt(end) + mem.Virt(int64(int32(le32(rest[24:]))))
	return n, target, binary.LittleEndian.Uint64(rest[2:]), nil
}
