package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxRealModeRelocs bounds the tables, in bytes; real ones have a few hundred.
const maxRealModeRelocs = 1 << 16

var errRealMode = errors.New("the kernel's file has no real mode code")

// ExplainRealMode compares real mode code, the trampoline in which CPUs start
// and wake, with the blob in the kernel's file that it is a copy of. code is of
// whole pages, from off bytes into the copy on, which lies at physical address
// at (arch/x86/realmode/init.c, setup_real_mode).
func (e *Expected) ExplainRealMode(start mem.Virt, at mem.Phys, off int, code []byte) ([]Difference, error) {
	blob := e.image.between("real_mode_blob", "real_mode_blob_end").data
	var relocs []byte
	if from, ok := e.image.Symbols.Address("real_mode_relocs"); ok {
		relocs = e.image.At(from, maxRealModeRelocs)
	}
	if len(blob) == 0 || len(relocs) < 8 {
		return nil, errRealMode
	}
	want := bytes.Clone(blob)
	if err := relocateRealMode(want, relocs, at); err != nil {
		return nil, err
	}
	whole := make([]byte, off+len(code))
	copy(whole, want)
	return runs(start+mem.Virt(off), code, whole[off:], "real mode code differs from the kernel's file"), nil
}

// relocateRealMode applies the tables behind the blob: a count and places where
// a 16-bit segment goes, then a count and places of 32-bit addresses.
func relocateRealMode(blob, relocs []byte, at mem.Phys) error {
	c := bin.Little(relocs)
	for _, size := range []uint32{2, 4} {
		for n := c.U32(); n > 0; n-- {
			off := c.U32()
			if c.Err() != nil || off > uint32(len(blob)) || uint32(len(blob))-off < size {
				return errRealMode
			}
			if size == 2 {
				binary.LittleEndian.PutUint16(blob[off:], uint16(at>>4))
			} else {
				binary.LittleEndian.PutUint32(blob[off:], binary.LittleEndian.Uint32(blob[off:])+uint32(at))
			}
		}
	}
	return nil
}
