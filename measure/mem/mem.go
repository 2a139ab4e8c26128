// Package mem reads the memory of a machine that is being measured.
//
// A [Reader] gives guest-physical memory; subpackages implement it for a
// running QEMU, dumps and the live host, and memtest holds the suite that every
// implementation passes. Reading never changes the target: RAM that the target
// has not touched is neither faulted in nor allocated.
package mem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Phys is an address in the target's physical address space.
type Phys uint64

// Virt is an address in one of the target's virtual address spaces.
type Virt uint64

// PageSize is the unit in which the target's memory is measured, in bytes.
const PageSize = 4096

func (a Phys) String() string { return fmt.Sprintf("%#x", uint64(a)) }
func (a Virt) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// Errors of memory sources.
var (
	// ErrNotMapped means that no RAM of the target lies at an address: a hole,
	// a device, or memory that a dump left out.
	ErrNotMapped = errors.New("no memory at this address")
	// ErrNotShared means that the target's RAM cannot be read from another
	// process because its VMM keeps it private.
	ErrNotShared = errors.New("memory is not shared")
)

// Reader reads guest-physical memory.
type Reader interface {
	// ReadPhys fills p from at. It reads all of p or fails: with
	// [ErrNotMapped] where any byte of it is not RAM.
	ReadPhys(p []byte, at Phys) error

	// Extents lists the target's RAM in ascending order without overlaps.
	Extents() []Extent
}

// Toucher is a [Reader] that knows which RAM the target has ever written.
type Toucher interface {
	// Touched lists the parts of the extents that may hold anything but zeros,
	// in ascending order.
	Touched() ([]Extent, error)
}

// WordReader is a [Reader] that reads single words faster than others.
type WordReader interface {
	// U64 reads a little-endian 64-bit integer, with the errors of ReadPhys.
	U64(at Phys) (uint64, error)
}

// Comparer is a [Reader] that compares memory without copying it.
type Comparer interface {
	// EqualPhys reports whether memory at an address is p, with the errors of
	// ReadPhys.
	EqualPhys(p []byte, at Phys) (bool, error)
}

// Extent is a range of physical addresses.
type Extent struct {
	Start Phys
	Size  uint64 // bytes
}

// End is the first address after the extent.
func (e Extent) End() Phys { return e.Start + Phys(e.Size) }

// Contains reports whether all of [at, at+size) lies in the extent.
func (e Extent) Contains(at Phys, size uint64) bool {
	return at >= e.Start && size <= e.Size && uint64(at-e.Start) <= e.Size-size
}

// Touched returns what r says of touched memory, or all of its RAM.
func Touched(r Reader) ([]Extent, error) {
	if t, ok := r.(Toucher); ok {
		return t.Touched()
	}
	return r.Extents(), nil
}

// U64 reads a little-endian 64-bit integer.
func U64(r Reader, at Phys) (uint64, error) {
	if w, ok := r.(WordReader); ok {
		return w.U64(at)
	}
	var b [8]byte
	if err := r.ReadPhys(b[:], at); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Equal reports whether memory at an address is p.
func Equal(r Reader, p []byte, at Phys) (bool, error) {
	if c, ok := r.(Comparer); ok {
		return c.EqualPhys(p, at)
	}
	b := make([]byte, len(p))
	if err := r.ReadPhys(b, at); err != nil {
		return false, err
	}
	return bytes.Equal(b, p), nil
}
