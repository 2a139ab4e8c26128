package xen

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Profile is what a running Xen's memory says about it.
type Profile struct {
	BuildID string        // GNU build-id, lower-case hex
	Release string        // such as "4.17.7", empty if it could not be read
	Phys    mem.Phys      // of Base: Xen moves itself to the top of low memory
	Space   *paging.Space // its own page tables (idle_pg_table)
	Symbols *kernel.Symbols
	Bounds  Bounds

	image []byte // from Base on, as it lies in memory
}

// window is how much of the image is looked at, in bytes: Debian's take 4 MiB.
const window = 8 << 20

// Runs reports whether the CPUs run a Xen: their interrupt tables lead into the
// gigabyte that holds its image, which no Linux has mapped. Whether it is one
// that can be measured is for [NewProfile].
func Runs(m mem.Reader, regs []mem.Registers) bool {
	for i := range regs {
		if _, _, err := entry(m, &regs[i]); err == nil {
			return true
		}
	}
	return false
}

// entry follows gate 0 of a CPU's interrupt table.
func entry(m mem.Reader, r *mem.Registers) (at mem.Virt, phys mem.Phys, err error) {
	space, err := paging.NewSpace(m, r)
	if err != nil {
		return 0, 0, err
	}
	var gate [16]byte
	if err := space.Read(gate[:], r.IDT.Base); err != nil {
		return 0, 0, err
	}
	at = Handler(gate[:])
	if at < Base || at > last {
		return 0, 0, fmt.Errorf("%w: exceptions go to %v", ErrNotXen, at)
	}
	phys, err = space.Phys(at)
	return at, phys, err
}

// Handler decodes the address of an interrupt gate (Intel SDM vol. 3A, figure 6-8).
func Handler(gate []byte) mem.Virt {
	return mem.Virt(gate[0]) | mem.Virt(gate[1])<<8 | mem.Virt(gate[6])<<16 | mem.Virt(gate[7])<<24 | mem.Virt(le32(gate[8:]))<<32
}

// NewProfile makes the profile of the Xen that the CPUs run. It is found where
// the first CPU's exceptions go; the image is contiguous in physical memory, so
// that a CPU on tables that show only the entry code (XPTI) is enough.
func NewProfile(m mem.Reader, regs []mem.Registers) (*Profile, error) {
	if len(regs) == 0 {
		return nil, ErrNoRegisters
	}
	err := error(ErrNotXen)
	for i := range regs {
		at, phys, entryErr := entry(m, &regs[i])
		if entryErr != nil {
			err = entryErr
			continue
		}
		var p *Profile
		if p, err = profileAt(m, phys-mem.Phys(at-Base), at); err == nil {
			return p, nil
		}
	}
	return nil, err
}

// profileAt makes the profile of the image at a physical address.
func profileAt(m mem.Reader, phys mem.Phys, handler mem.Virt) (*Profile, error) {
	if phys%0x20_0000 != 0 {
		return nil, fmt.Errorf("%w: image at physical %v", ErrLayout, phys)
	}
	p := &Profile{Phys: phys}
	for len(p.image) < window {
		chunk := make([]byte, 1<<20)
		if err := m.ReadPhys(chunk, phys+mem.Phys(len(p.image))); err != nil {
			break // RAM ends behind the image
		}
		p.image = append(p.image, chunk...)
	}
	var err error
	if p.Symbols, err = kernel.DecodeSymbolTable(p.image, uint64(virtStart)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if p.Bounds, err = boundsOf(p.Symbols, len(p.image)); err != nil {
		return nil, err
	}
	if handler < p.Bounds.Text || handler >= p.Bounds.TextEnd {
		return nil, fmt.Errorf("%w: exceptions go to %v, outside of the text", ErrLayout, handler)
	}
	if p.BuildID, err = buildID(p.at(p.Bounds.Rodata, int(p.Bounds.RodataEnd-p.Bounds.Rodata))); err != nil {
		return nil, err
	}
	p.Release = release(p.Symbols, p.at)
	p.Space, err = p.tables(m)
	return p, err
}

func (p *Profile) at(at mem.Virt, n int) []byte {
	if at < Base || n > len(p.image) || uint64(at-Base) > uint64(len(p.image)-n) {
		return nil
	}
	return p.image[at-Base:][:n]
}

// buildID reads the note at the end of the read-only data.
func buildID(rodata []byte) (string, error) {
	// NT_GNU_BUILD_ID, 20 bytes by "GNU": SHA-1, which is what the linker makes.
	at := bytes.LastIndex(rodata, []byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00"))
	if at < 0 {
		return "", fmt.Errorf("%w: no build-id", ErrLayout)
	}
	id, err := kernel.BuildIDOf(rodata[at:])
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrLayout, err)
	}
	return id, nil
}

// tables finds idle_pg_table, the tables that Xen runs on for itself; they must
// map the image to where it is.
func (p *Profile) tables(m mem.Reader) (*paging.Space, error) {
	at, ok := p.Symbol("idle_pg_table")
	if !ok || at < Base || at%mem.PageSize != 0 || at-Base >= mem.Virt(len(p.image)) {
		return nil, fmt.Errorf("%w: idle_pg_table at %v", ErrLayout, at)
	}
	space := paging.SpaceAt(m, p.Phys+mem.Phys(at-Base), 4)
	if phys, err := space.Phys(Base); err != nil || phys != p.Phys {
		return nil, fmt.Errorf("%w: idle_pg_table maps the image to %v, the CPU to %v (%v)", ErrLayout, phys, p.Phys, err)
	}
	return space, nil
}

// Symbol returns the address of a symbol.
func (p *Profile) Symbol(name string) (mem.Virt, bool) {
	at, ok := p.Symbols.Address(name)
	return mem.Virt(at), ok
}

// Lookup returns the symbol that holds an address of the image and the offset
// into it.
func (p *Profile) Lookup(at mem.Virt) (name string, offset uint64, ok bool) {
	if at < Base || at >= Base+mem.Virt(len(p.image)) {
		return "", 0, false
	}
	name, start, ok := p.Symbols.Lookup(uint64(at))
	return name, uint64(at) - start, ok
}

// Facts returns the profile as observations show it.
func (p *Profile) Facts() measure.Kernel {
	digest := p.Symbols.Digest(uint64(Base))
	return measure.Kernel{
		Kind:     measure.Xen,
		Release:  p.Release,
		BuildID:  p.BuildID,
		TextBase: Base.String(),
		Slide:    "0x0",
		Levels:   p.Space.Levels(),
		Symbols:  p.Symbols.Len(),

		SymbolDigest: hex.EncodeToString(digest[:]),
	}
}

// Kept lists the physical memory of the image that stays Xen's: without the data
// and code of boot, and without the pool from which Xen, booted by UEFI or not,
// gives what is left to others (common/efi/ebmalloc.c).
func (p *Profile) Kept() ([]mem.Extent, error) {
	var pool, poolEnd mem.Virt
	for s := range p.Symbols.All() { // local to a file, which differs
		if strings.HasSuffix(s.Name, "#ebmalloc_mem") {
			pool, poolEnd = mem.Virt(s.Addr), mem.Virt(p.Symbols.Next(s.Addr))
		}
	}
	bounds := []mem.Virt{Base}
	for _, name := range []string{"__init_begin", "__init_end", "_end"} {
		at, _ := p.Symbol(name)
		bounds = append(bounds, at)
	}
	if pool != 0 {
		bounds = []mem.Virt{bounds[0], bounds[1], bounds[2], pool, poolEnd, bounds[3]}
	}
	var out []mem.Extent
	for i := 0; i < len(bounds); i += 2 {
		if bounds[i+1] < bounds[i] || i > 0 && bounds[i] < bounds[i-1] || bounds[i+1] > Base+maxImage {
			return nil, fmt.Errorf("%w: parts of the image at %v", ErrLayout, bounds)
		}
		out = append(out, mem.Extent{Start: p.Phys + mem.Phys(bounds[i]-Base), Size: uint64(bounds[i+1] - bounds[i])})
	}
	return out, nil
}
