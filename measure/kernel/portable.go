package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrNotPortable means that memory holds something that is not the same on
// another machine and cannot be left out.
var ErrNotPortable = errors.New("memory is not portable")

// Portable is what pages of a kernel hold on every machine with the same build,
// the same CPU model, and one CPU or several: digests of the pages with every
// address moved back to where the kernel was linked.
type Portable struct {
	Link    uint64  `json:"link"`    // address of the first page in the file
	Fields  []Field `json:"fields"`  // what moves with the kernel, ascending
	Masked  []Gap   `json:"masked"`  // what differs from boot to boot and is not compared, ascending
	Digests []byte  `json:"digests"` // 32 bytes of BLAKE3 a page
}

// Field is a value that moves with the kernel.
type Field struct {
	Off  uint32    `json:"o"` // from the first page
	Kind FieldKind `json:"k,omitempty"`
}

// FieldKind says how a field moves.
type FieldKind uint8

// Kinds of fields, as the kernel's relocation tables tell them apart.
const (
	FieldAbs32   FieldKind = iota // grows
	FieldMinus32                  // shrinks
	FieldAbs64                    // grows, 64 bits
)

// Gap is a range that is not compared.
type Gap struct {
	Off  uint32 `json:"o"`
	Size uint32 `json:"n"` // bytes
}

func (f Field) size() uint32 {
	if f.Kind == FieldAbs64 {
		return 8
	}
	return 4
}

// PortableText makes a reference from observed text that was explained without
// findings. What depends on where modules lie, or on memory that was allocated
// at boot, is masked. Text that is being traced or probed is [ErrNotPortable].
func (e *Expected) PortableText(observed func(page int) []byte) (*Portable, error) {
	t := e.kernel
	pages := make([]int, t.Pages)
	for i := range pages {
		pages[i] = i
	}
	x := e.Explain(t, pages, observed)
	if len(x.Findings)+len(x.Notes)+len(x.Need) > 0 {
		return nil, fmt.Errorf("%w: text has %d findings and %d notes", ErrNotPortable, len(x.Findings), len(x.Notes))
	}
	seen, err := gather(t.Pages, observed)
	if err != nil {
		return nil, err
	}
	p := &Portable{Link: e.image.text.addr}
	for _, s := range t.obj.sites {
		if site := seen[s.off:s.end()]; s.kind == siteConstant || s.kind <= siteTracer && e.leaves(uint64(t.Start)+uint64(s.off), site) {
			p.mask(s.off, uint32(s.size))
		}
	}
	p.take(e.image.relocs, e.image.text.addr, seen, t.want())
	p.hash(seen, e.slide)
	return p, nil
}

// PortableRodata makes a reference from observed read-only data.
func (e *Expected) PortableRodata(observed func(page int) []byte) (*Portable, error) {
	r := e.Rodata()
	seen, err := gather(r.Pages, observed)
	if err != nil {
		return nil, err
	}
	p := &Portable{Link: e.image.rodata.addr}
	if r.SetAtBoot.Size > 0 {
		p.mask(uint32(r.SetAtBoot.Start-r.Start), uint32(r.SetAtBoot.Size))
	}
	for _, off := range r.cuts() {
		p.mask(uint32(off), 1)
	}
	if end := uint32(r.Size); int(end) < len(seen) {
		p.mask(end, uint32(len(seen))-end)
	}
	p.take(e.image.relocs, e.image.rodata.addr, seen, r.want())
	p.hash(seen, e.slide)
	return p, nil
}

func gather(pages int, observed func(page int) []byte) ([]byte, error) {
	seen := make([]byte, 0, pages*mem.PageSize)
	for i := range pages {
		page := observed(i)
		if len(page) != mem.PageSize {
			return nil, fmt.Errorf("%w: page %d was not read", ErrNotPortable, i)
		}
		seen = append(seen, page...)
	}
	return seen, nil
}

// leaves reports whether a site branches out of the kernel's text.
func (e *Expected) leaves(at uint64, site []byte) bool {
	for i := range site {
		if _, target, ok := branchTarget(site[i:], at+uint64(i)); ok && target>>63 == 1 && !e.kernel.holds(target) && e.textOf(target) != nil {
			return true
		}
	}
	return false
}

func (p *Portable) mask(off, size uint32) { p.Masked = append(p.Masked, Gap{off, size}) }

// take adds the relocations that memory still has: where a patch replaced the
// instruction, there is nothing to move back. Fields across two pages are
// masked.
func (p *Portable) take(r *relocs, addr uint64, seen, want []byte) {
	for kind, table := range map[FieldKind][]uint32{FieldAbs32: r.abs32, FieldMinus32: r.minus32, FieldAbs64: r.abs64} {
		i, _ := slices.BinarySearch(table, uint32(addr))
		for ; i < len(table); i++ {
			f := Field{Off: table[i] - uint32(addr), Kind: kind}
			if uint64(f.Off)+uint64(f.size()) > uint64(len(seen)) {
				break
			}
			end := f.Off + f.size()
			switch {
			case f.Off/mem.PageSize != (end-1)/mem.PageSize:
				p.mask(f.Off, f.size())
			case string(seen[f.Off:end]) == string(want[f.Off:end]):
				p.Fields = append(p.Fields, f)
			}
		}
	}
	slices.SortFunc(p.Fields, func(a, b Field) int { return int(int64(a.Off) - int64(b.Off)) })
	slices.SortFunc(p.Masked, func(a, b Gap) int { return int(int64(a.Off) - int64(b.Off)) })
}

func (p *Portable) hash(seen []byte, slide uint64) {
	for i := range len(seen) / mem.PageSize {
		d := p.digest(i, seen[i*mem.PageSize:(i+1)*mem.PageSize], slide)
		p.Digests = append(p.Digests, d[:]...)
	}
}

// Pages is the number of pages.
func (p *Portable) Pages() int { return len(p.Digests) / 32 }

// Covered is how many bytes are compared.
func (p *Portable) Covered() int64 {
	n := int64(p.Pages()) * mem.PageSize
	for _, m := range p.Masked {
		n -= int64(m.Size)
	}
	return n
}

// Same reports whether a page of a kernel that runs slide bytes above its link
// address is what the reference has.
func (p *Portable) Same(page int, seen []byte, slide uint64) bool {
	if page < 0 || page >= p.Pages() || len(seen) != mem.PageSize {
		return false
	}
	d := p.digest(page, seen, slide)
	return string(d[:]) == string(p.Digests[page*32:page*32+32])
}

// digest moves a page back, blanks what is masked, and hashes it.
func (p *Portable) digest(page int, seen []byte, slide uint64) [32]byte {
	lo, hi := uint32(page)*mem.PageSize, uint32(page+1)*mem.PageSize
	out := append([]byte(nil), seen...)
	i, _ := slices.BinarySearchFunc(p.Fields, lo, func(f Field, off uint32) int { return int(int64(f.Off) - int64(off)) })
	for ; i < len(p.Fields) && p.Fields[i].Off < hi; i++ {
		f := p.Fields[i]
		field := out[f.Off-lo:]
		switch f.Kind {
		case FieldAbs64:
			binary.LittleEndian.PutUint64(field, binary.LittleEndian.Uint64(field)-slide)
		case FieldMinus32:
			binary.LittleEndian.PutUint32(field, binary.LittleEndian.Uint32(field)+uint32(slide))
		default:
			binary.LittleEndian.PutUint32(field, binary.LittleEndian.Uint32(field)-uint32(slide))
		}
	}
	for _, m := range p.Masked {
		from, to := max(uint64(m.Off), uint64(lo)), min(uint64(m.Off)+uint64(m.Size), uint64(hi))
		if from < to {
			clear(out[from-uint64(lo) : to-uint64(lo)])
		}
	}
	return blake3.Sum256(out)
}

// Validate is for references that were read from a file.
func (p *Portable) Validate() error {
	size := uint64(p.Pages()) * mem.PageSize
	if len(p.Digests)%32 != 0 || len(p.Digests) == 0 || size > maxKernelFile || p.Link%mem.PageSize != 0 {
		return fmt.Errorf("%w: reference of %d bytes of digests", ErrFormat, len(p.Digests))
	}
	for i, f := range p.Fields {
		end := uint64(f.Off) + uint64(f.size())
		if f.Kind > FieldAbs64 || end > size || uint64(f.Off)/mem.PageSize != (end-1)/mem.PageSize || i > 0 && f.Off < p.Fields[i-1].Off {
			return fmt.Errorf("%w: reference has a field at %#x", ErrFormat, f.Off)
		}
	}
	for _, m := range p.Masked {
		if uint64(m.Off)+uint64(m.Size) > size {
			return fmt.Errorf("%w: reference masks %d bytes at %#x", ErrFormat, m.Size, m.Off)
		}
	}
	return nil
}
