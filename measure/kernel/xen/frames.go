package xen

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Frames is Xen's account of machine frames, the frame table: a struct page_info
// for each of them (include/asm/mm.h; 32 bytes, at FRAMETABLE_VIRT_START of
// include/asm/config.h).
type Frames struct {
	profile *Profile
	counts  uint64 // bits of count_info that count references
}

// The frame table, and offsets into struct page_info.
const (
	FrameTable    mem.Virt = 0xffff_82e0_0000_0000
	FrameTableEnd          = DirectMap
	frameInfo              = 32
	frameCount             = 8  // count_info
	frameType              = 16 // type_info
	frameOwner             = 24 // v.inuse._domain: bits 12 to 43 of the owner's place in the map of all RAM
)

// FrameInfo is what Xen says of a frame.
type FrameInfo struct {
	Count uint64   // count_info
	Type  uint64   // type_info
	Owner mem.Virt // struct domain, 0 if none; of a frame in use only
}

// Bits of count_info and type_info, the same from 4.14 to 4.20.
const (
	countAllocated = 1 << 63 // the owner has not given it back
	countXenHeap   = 1 << 62
	typeLevel      = 61 // PGT_l1_page_table to PGT_l4_page_table are 1 to 4 here
	typeValidated  = 1 << 58
)

// InUse reports whether somebody holds the frame: only then is the owner one.
func (f *Frames) InUse(i FrameInfo) bool { return i.Count&f.counts != 0 }

// Allocated reports whether the owner has not given the frame back.
func (f *Frames) Allocated(i FrameInfo) bool { return f.InUse(i) && i.Count&countAllocated != 0 }

// NestedLevel is the level of the nested page table that Xen keeps in a frame,
// or 0: such a frame has no owner and no reference, but the type of a table
// (arch/x86/mm/p2m-basic.c, p2m_alloc_ptp, and mm/hap/hap.c).
func (f *Frames) NestedLevel(i FrameInfo) int {
	if i.Owner != 0 || f.InUse(i) || i.Count&countXenHeap != 0 || i.Type&typeValidated == 0 {
		return 0
	}
	return int(i.Type >> typeLevel)
}

// XenHeap reports whether a frame is of Xen's heap and given to nobody.
func (f *Frames) XenHeap(i FrameInfo) bool {
	return i.Count&countXenHeap != 0 && i.Owner == 0
}

// Frames finds the account. Its layout is in the code of
// page_get_owner_and_reference, and frames must be numbered without holes
// (pfn_pdx_hole_shift), as they are but on machines with memory far apart.
func (p *Profile) Frames() (*Frames, error) {
	at, _ := p.Symbol("page_get_owner_and_reference")
	code := bytes.TrimPrefix(p.at(at, 128), endbr64)
	// MOVABS $mask, %RSI; MOV 8(%RDI), %RDX; and MOV 24(%RDI), %EAX; TEST %EAX, %EAX.
	if !bytes.HasPrefix(code, []byte{0x48, 0xbe}) || !bytes.Equal(code[10:14], []byte{0x48, 0x8b, 0x57, frameCount}) ||
		!bytes.Contains(code, []byte{0x8b, 0x47, frameOwner, 0x85, 0xc0}) {
		return nil, fmt.Errorf("%w: page_get_owner_and_reference is other code", ErrLayout)
	}
	f := &Frames{profile: p, counts: binary.LittleEndian.Uint64(code[2:])}
	if f.counts&(f.counts+1) != 0 || f.counts < 1<<32 || f.counts >= 1<<60 {
		return nil, fmt.Errorf("%w: references to frames are counted in %#x", ErrLayout, f.counts)
	}
	if at, ok := p.Symbol("pfn_pdx_hole_shift"); ok {
		if shift, err := p.Space.U32(at); err != nil || shift != 0 {
			return nil, fmt.Errorf("%w: frames are numbered with holes (%d, %v)", ErrLayout, shift, err)
		}
	}
	return f, nil
}

// Of reads the account of as many frames as out has, from the one at phys on.
// Where there is none, as for most of what is not RAM, it is an error.
func (f *Frames) Of(out []FrameInfo, phys mem.Phys) error {
	from := FrameTable + mem.Virt(phys/mem.PageSize*frameInfo)
	if phys >= 1<<44 || len(out) > 1<<20 || from+mem.Virt(len(out)*frameInfo) > FrameTableEnd {
		return fmt.Errorf("account of %d frames at %v: %w", len(out), phys, mem.ErrNotMapped)
	}
	raw := make([]byte, len(out)*frameInfo)
	if err := f.profile.Space.Read(raw, from); err != nil {
		return fmt.Errorf("account of %d frames at %v: %w", len(out), phys, err)
	}
	for i := range out {
		r := raw[i*frameInfo:]
		out[i] = FrameInfo{Count: binary.LittleEndian.Uint64(r[frameCount:]), Type: binary.LittleEndian.Uint64(r[frameType:])}
		if owner := le32(r[frameOwner:]); owner != 0 && f.InUse(out[i]) {
			out[i].Owner = DirectMap + mem.Virt(owner)<<12
		}
	}
	return nil
}
