package kernel

import (
	"errors"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Errors of [NewProfile]. All but ErrNoRegisters mean that something in the
// target's memory was not what a kernel this package knows has there.
var (
	ErrNoRegisters = errors.New("the source has no registers")
	ErrNoKernel    = errors.New("no Linux kernel found in the address space")
	ErrNoSymbols   = errors.New("no valid kallsyms tables found")
	ErrNoTypes     = errors.New("no valid BTF found")
)

// Profile is what a running kernel's memory says about it.
type Profile struct {
	BuildID string        // GNU build-id, lower-case hex
	Release string        // as in uname -r
	Base    mem.Virt      // of _text
	Slide   uint64        // how far KASLR moved it, bytes
	Phys    mem.Phys      // of _text
	Space   *paging.Space // the kernel's own page tables
	Symbols *Symbols
	Types   *Types
}

// Cache keeps the parts of profiles that do not change from boot to boot, by
// the digest of the tables they were read from. It is safe for concurrent use;
// a nil Cache keeps nothing.
type Cache struct {
}

// Profile makes the profile of the kernel whose memory and registers are given.
func (c *Cache) Profile(m mem.Reader, regs []mem.Registers) (*Profile, error) {
	return nil, ErrNoKernel
}

// NewProfile makes a profile without a cache.
func NewProfile(m mem.Reader, regs []mem.Registers) (*Profile, error) {
	return (*Cache)(nil).Profile(m, regs)
}

// Symbol returns the address of a symbol of the kernel or, as "module:name", of
// a module.
func (p *Profile) Symbol(name string) (mem.Virt, bool) { return 0, false }

// Lookup returns the symbol that holds at and the offset into it; modules'
// symbols have their module's name before a colon.
func (p *Profile) Lookup(at mem.Virt) (name string, offset uint64, ok bool) { return "", 0, false }

// Facts returns the profile as observations show it.
func (p *Profile) Facts() measure.Kernel { return measure.Kernel{} }
