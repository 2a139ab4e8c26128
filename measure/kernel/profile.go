package kernel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Errors of [NewProfile]: something in the target's memory is not what a kernel
// this package knows has there.
var (
	// ErrNoRegisters is the reason where registers would have told more.
	ErrNoRegisters = errors.New("the source has no registers")
	// ErrSeveralKernels means that a source without registers holds several
	// kernels: which of them runs the machine cannot be told.
	ErrSeveralKernels = errors.New("memory holds several kernels")
	ErrNoKernel       = errors.New("no Linux kernel found in the address space")
	ErrNoSymbols      = errors.New("no valid kallsyms tables found")
	ErrNoTypes        = errors.New("no valid BTF found")
)

// Profile is what a running kernel's memory says about it.
type Profile struct {
	BuildID string        // GNU build-id, lower-case hex
	Release string        // as in uname -r
	Base    mem.Virt      // of _text
	End     mem.Virt      // after the last page of the image
	Slide   uint64        // how far KASLR moved it, bytes
	Phys    mem.Phys      // of _text
	Space   *paging.Space // the kernel's own page tables (init_top_pgt)
	// Described says that nothing but the kernel's own description of itself led
	// to it: the source has no registers.
	Described bool
	Symbols   *Symbols
	Types     *Types

	symbolDigest string       // in hex
	moduleTypes  *moduleTypes // shared by copies of the profile
	derived      *derived     // shared by copies of the profile
}

// NewProfile makes the profile of the kernel whose memory and registers are
// given, without a cache.
func NewProfile(m mem.Reader, regs []mem.Registers) (*Profile, error) {
	return (*Cache)(nil).Profile(m, regs)
}

// newProfile reads everything anew.
func newProfile(l *located) (*Profile, error) {
	image, err := l.read(l.base, l.end)
	if err != nil {
		return nil, fmt.Errorf("read kernel image: %w", err)
	}
	symbols, err := DecodeKallsyms(image, uint64(l.base))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSymbols, err)
	}
	p := &Profile{Base: l.base, End: l.end, Phys: l.phys, Slide: uint64(l.base - linkBase), Symbols: symbols,
		moduleTypes: &moduleTypes{by: make(map[[32]byte]*Types), bySymbols: make(map[[32]byte]*ModuleSymbols)},
		derived:     &derived{by: make(map[any]any)}}
	if err := p.validateSymbols(); err != nil {
		return nil, err
	}
	section := func(start, stop string) ([]byte, error) { return p.section(image, start, stop) }
	raw, err := section("__start_BTF", "__stop_BTF")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTypes, err)
	}
	if p.Types, err = parseTypes(raw, nil); err != nil {
		return nil, err
	}
	notes, err := section("__start_notes", "__stop_notes")
	if err != nil {
		return nil, err
	}
	if p.BuildID, err = buildIDOf(notes); err != nil {
		return nil, err
	}
	if p.Release, err = p.banner(image); err != nil {
		return nil, err
	}
	digest := p.Symbols.Digest(uint64(p.Base))
	p.symbolDigest = hex.EncodeToString(digest[:])
	return p, p.bind(l)
}

// validateSymbols holds the symbols against the page tables.
func (p *Profile) validateSymbols() error {
	if at, ok := p.Symbol("_text"); !ok || at != p.Base {
		return fmt.Errorf("%w: _text is %v and the image starts at %v", ErrNoSymbols, at, p.Base)
	}
	last := p.Base
	for _, name := range []string{"_etext", "__start_rodata", "__end_rodata", "_end"} {
		at, ok := p.Symbol(name)
		if !ok || at < last || at > p.End+0x20_0000 {
			return fmt.Errorf("%w: %s is %v, outside of [%v, %v]", ErrNoSymbols, name, at, last, p.End)
		}
		last = at
	}
	return nil
}

// section returns the bytes between two symbols.
func (p *Profile) section(image []byte, start, stop string) ([]byte, error) {
	from, ok1 := p.Symbol(start)
	to, ok2 := p.Symbol(stop)
	if !ok1 || !ok2 || from < p.Base || to < from || uint64(to-p.Base) > uint64(len(image)) {
		return nil, fmt.Errorf("%s [%v, %v) is not in the image", start, from, to)
	}
	return image[from-p.Base : to-p.Base], nil
}

// banner reads the release from linux_banner: "Linux version RELEASE (...".
func (p *Profile) banner(image []byte) (string, error) {
	at, ok := p.Symbol("linux_banner")
	if !ok || at < p.Base || uint64(at-p.Base) >= uint64(len(image)) {
		return "", fmt.Errorf("%w: no linux_banner", ErrNoKernel)
	}
	text := image[at-p.Base:]
	rest, ok := bytes.CutPrefix(text[:min(len(text), 256)], []byte("Linux version "))
	release, _, found := bytes.Cut(rest, []byte(" "))
	if !ok || !found || len(release) == 0 || len(release) > 64 || !printable(release) {
		return "", fmt.Errorf("%w: linux_banner does not name a release", ErrNoKernel)
	}
	return string(release), nil
}

func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// bind ties the profile to the memory of one scan. The kernel's own tables are
// those of init_top_pgt, whatever the CPU ran when it was stopped.
func (p *Profile) bind(l *located) error {
	root, ok := p.Symbol("init_top_pgt")
	if !ok {
		return fmt.Errorf("%w: no init_top_pgt", ErrNoSymbols)
	}
	phys, err := l.space.Phys(root)
	if err != nil {
		return fmt.Errorf("kernel's page tables: %w", err)
	}
	p.Space, p.Described = paging.SpaceAt(l.space.Memory(), phys, l.space.Levels()), l.described
	if l.described && p.Space.Root() != l.space.Root() {
		return fmt.Errorf("%w: its description has its page tables at %v, its symbols at %v", ErrNoKernel, l.space.Root(), p.Space.Root())
	}
	if at, err := p.Space.Phys(p.Base); err != nil || at != p.Phys {
		return fmt.Errorf("%w: init_top_pgt maps _text to %v, the CPU to %v (%v)", ErrNoKernel, at, p.Phys, err)
	}
	return nil
}

// Symbol returns the address of a symbol of the kernel.
func (p *Profile) Symbol(name string) (mem.Virt, bool) {
	at, ok := p.Symbols.Address(name)
	return mem.Virt(at), ok
}

// Lookup returns the kernel's symbol that holds at and the offset into it.
func (p *Profile) Lookup(at mem.Virt) (name string, offset uint64, ok bool) {
	if at < p.Base || at >= p.End {
		return "", 0, false
	}
	name, start, ok := p.Symbols.Lookup(uint64(at))
	return name, uint64(at) - start, ok
}

// Facts returns the profile as observations show it.
func (p *Profile) Facts() measure.Kernel {
	return measure.Kernel{
		Release:  p.Release,
		BuildID:  p.BuildID,
		TextBase: p.Base.String(),
		Slide:    fmt.Sprintf("%#x", p.Slide),
		Levels:   p.Space.Levels(),
		Symbols:  p.Symbols.Len(),

		SymbolDigest: p.symbolDigest,
		Described:    p.Described,
	}
}
