// Package paging translates virtual addresses of x86-64 targets, with 4 or 5
// levels of page tables (Intel SDM vol. 3A, 4.5; AMD64 APM vol. 2, 5.3).
//
// Page tables come from a hostile target. Translation reads at most five
// entries; a walk visits each address once however tables loop, and stops at
// the limits of [Walk].
package paging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Errors of translation.
var (
	ErrNotPresent   = errors.New("page not present")
	ErrNotCanonical = errors.New("address is not canonical")
	ErrReserved     = errors.New("reserved bit set in page table entry")
	ErrNotPaging    = errors.New("paging or long mode is off")
)

// Flags are permissions of a mapping, the AND over all levels of what grants
// and the OR of what denies.
type Flags uint8

// Flags of a mapping.
const (
	Writable Flags = 1 << iota
	User
	NoExecute
	Global
)

// Entry bits (Intel SDM vol. 3A, table 4-20).
const (
	entryPresent  = 1 << 0
	entryWritable = 1 << 1
	entryUser     = 1 << 2
	entryLarge    = 1 << 7
	entryGlobal   = 1 << 8
	entryNX       = 1 << 63
	entryAddress  = 0x000f_ffff_ffff_f000
)

// Mapping is the translation of one page.
type Mapping struct {
	Virt  mem.Virt // start of the page
	Phys  mem.Phys // where it lies
	Size  uint64   // 4 KiB, 2 MiB or 1 GiB
	Flags Flags
	Entry uint64 // the entry of the last level as it is
}

// EntryUser is the bit of an entry that opens it to user mode. It does so only
// if the entries of all levels have it, which is what [User] says.
const EntryUser = entryUser

// Space is one virtual address space.
type Space struct {
	mem    mem.Reader
	root   mem.Phys
	levels int
	cache  *translations // nil if off
}

// translations are what a space remembers. Most of what is asked for was asked for a
// moment ago, which is cheaper to find by place than in a map.
type translations struct {
	latest [256]Mapping // by the low bits of the number of the page asked for
	all    map[mem.Virt]Mapping
}

// NewSpace returns the address space of a CPU in long mode.
func NewSpace(m mem.Reader, regs *mem.Registers) (*Space, error) {
	if regs.CR0&mem.CR0PG == 0 || regs.CR4&mem.CR4PAE == 0 || regs.Known("EFER") && regs.EFER&mem.EFERLMA == 0 {
		return nil, ErrNotPaging
	}
	levels := 4
	if regs.CR4&mem.CR4LA57 != 0 {
		levels = 5
	}
	return SpaceAt(m, mem.Phys(regs.CR3&entryAddress), levels), nil
}

// SpaceAt returns the address space whose top table lies at root; levels is 4
// or 5.
func SpaceAt(m mem.Reader, root mem.Phys, levels int) *Space {
	return &Space{mem: m, root: root &^ 0xfff, levels: levels}
}

// Root is the address of the top table.
func (s *Space) Root() mem.Phys { return s.root }

// Levels is 4 or 5.
func (s *Space) Levels() int { return s.levels }

// Memory is the physical memory beneath the space.
func (s *Space) Memory() mem.Reader { return s.mem }

// Cached returns a space over the same tables that remembers translations. It
// is for one scan: it does not see later changes of the tables, and it is not
// safe for concurrent use.
func (s *Space) Cached() *Space {
	c := *s
	c.cache = &translations{all: make(map[mem.Virt]Mapping)}
	return &c
}

// maxCached bounds the memory of a cached space: 64 Ki pages.
const maxCached = 1 << 16

// Translate finds the page that holds at.
func (s *Space) Translate(at mem.Virt) (Mapping, error) {
	if s.cache == nil {
		return s.translate(at)
	}
	latest := &s.cache.latest[at/mem.PageSize%mem.Virt(len(s.cache.latest))]
	if uint64(at-latest.Virt) < latest.Size {
		return *latest, nil
	}
	m, ok := s.cache.find(at)
	if !ok {
		var err error
		if m, err = s.translate(at); err != nil {
			return m, err
		}
		if len(s.cache.all) < maxCached {
			s.cache.all[m.Virt] = m
		}
	}
	*latest = m
	return m, nil
}

func (t *translations) find(at mem.Virt) (Mapping, bool) {
	for _, size := range [...]mem.Virt{0x1000, 0x20_0000, 0x4000_0000} {
		if m, ok := t.all[at&^(size-1)]; ok && uint64(at-m.Virt) < m.Size {
			return m, true
		}
	}
	return Mapping{}, false
}

func (s *Space) translate(at mem.Virt) (Mapping, error) {
	if !s.canonical(at) {
		return Mapping{}, fmt.Errorf("translate %v: %w", at, ErrNotCanonical)
	}
	table, flags := s.root, Writable|User
	for level := s.levels; level >= 1; level-- {
		shift := shiftOf(level)
		entryAt := table + mem.Phys(at>>shift&0x1ff*8)
		entry, err := mem.U64(s.mem, entryAt)
		if err != nil {
			return Mapping{}, fmt.Errorf("read %s entry at %v: %w", levelName(level), entryAt, err)
		}
		if entry&entryPresent == 0 {
			return Mapping{}, fmt.Errorf("translate %v: %s entry: %w", at, levelName(level), ErrNotPresent)
		}
		flags = combine(flags, entry)
		if level > 1 && entry&entryLarge == 0 {
			table = mem.Phys(entry & entryAddress)
			continue
		}
		return leaf(at, entry, level, flags)
	}
	panic("unreachable: the last level always maps")
}

// leaf makes the mapping of an entry that maps a page.
func leaf(at mem.Virt, entry uint64, level int, flags Flags) (Mapping, error) {
	if level > 3 {
		return Mapping{}, fmt.Errorf("translate %v: large %s entry: %w", at, levelName(level), ErrReserved)
	}
	size := uint64(1) << shiftOf(level)
	phys := entry & entryAddress &^ (1 << 12) // bit 12 of a large page is PAT
	if level == 1 {
		phys = entry & entryAddress
	}
	if phys&(size-1) != 0 {
		return Mapping{}, fmt.Errorf("translate %v: misaligned %s entry: %w", at, levelName(level), ErrReserved)
	}
	if entry&entryGlobal != 0 {
		flags |= Global
	}
	return Mapping{Virt: at &^ mem.Virt(size-1), Phys: mem.Phys(phys), Size: size, Flags: flags, Entry: entry}, nil
}

// combine adds one level's permissions to those of the levels above.
func combine(flags Flags, entry uint64) Flags {
	if entry&entryWritable == 0 {
		flags &^= Writable
	}
	if entry&entryUser == 0 {
		flags &^= User
	}
	if entry&entryNX != 0 {
		flags |= NoExecute
	}
	return flags
}

// Phys translates one address.
func (s *Space) Phys(at mem.Virt) (mem.Phys, error) {
	m, err := s.Translate(at)
	if err != nil {
		return 0, err
	}
	return m.Phys + mem.Phys(at-m.Virt), nil
}

// Read fills p from at. It reads all of p or fails.
func (s *Space) Read(p []byte, at mem.Virt) error {
	for len(p) > 0 {
		m, err := s.Translate(at)
		if err != nil {
			return err
		}
		into := uint64(at - m.Virt)
		n := min(uint64(len(p)), m.Size-into)
		if err := s.mem.ReadPhys(p[:n], m.Phys+mem.Phys(into)); err != nil {
			return fmt.Errorf("read %d bytes at %v (physical %v): %w", n, at, m.Phys+mem.Phys(into), err)
		}
		p = p[n:]
		if at += mem.Virt(n); at == 0 && len(p) > 0 {
			return fmt.Errorf("read past the last address: %w", ErrNotCanonical)
		}
	}
	return nil
}

// Equal reports whether memory at an address is p. Where it can not all be read, and
// what can is p, that is an error.
func (s *Space) Equal(p []byte, at mem.Virt) (bool, error) {
	for len(p) > 0 {
		m, err := s.Translate(at)
		if err != nil {
			return false, err
		}
		into := uint64(at - m.Virt)
		n := min(uint64(len(p)), m.Size-into)
		if same, err := mem.Equal(s.mem, p[:n], m.Phys+mem.Phys(into)); err != nil {
			return false, fmt.Errorf("read %d bytes at %v (physical %v): %w", n, at, m.Phys+mem.Phys(into), err)
		} else if !same {
			return false, nil
		}
		p = p[n:]
		if at += mem.Virt(n); at == 0 && len(p) > 0 {
			return false, fmt.Errorf("read past the last address: %w", ErrNotCanonical)
		}
	}
	return true, nil
}

// U64 reads a little-endian 64-bit integer.
func (s *Space) U64(at mem.Virt) (uint64, error) {
	if at%mem.PageSize <= mem.PageSize-8 {
		p, err := s.Phys(at)
		if err != nil {
			return 0, err
		}
		v, err := mem.U64(s.mem, p)
		if err != nil {
			return 0, fmt.Errorf("read 8 bytes at %v (physical %v): %w", at, p, err)
		}
		return v, nil
	}
	var b [8]byte
	err := s.Read(b[:], at)
	return binary.LittleEndian.Uint64(b[:]), err
}

// U32 reads a little-endian 32-bit integer.
func (s *Space) U32(at mem.Virt) (uint32, error) {
	var b [4]byte
	err := s.Read(b[:], at)
	return binary.LittleEndian.Uint32(b[:]), err
}

func (s *Space) canonical(at mem.Virt) bool {
	top := int64(at) >> (shiftOf(s.levels+1) - 1)
	return top == 0 || top == -1
}

// shiftOf is the number of address bits below a level's index.
func shiftOf(level int) int { return 12 + 9*(level-1) }

func levelName(level int) string {
	return [...]string{"", "page table", "page directory", "PDPT", "PML4", "PML5"}[level]
}

// ErrNoString means that no NUL ends a string within its limit.
var ErrNoString = errors.New("string does not end")

// CString reads a NUL-terminated string of at most limit bytes, the NUL left
// out. The bytes are the target's: they may be anything.
func (s *Space) CString(at mem.Virt, limit int) (string, error) {
	var out []byte
	for len(out) < limit {
		// Up to the end of the page: the next one may not be mapped.
		n := min(limit-len(out), int(mem.PageSize-at%mem.PageSize))
		chunk := make([]byte, n)
		if err := s.Read(chunk, at); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(chunk, 0); i >= 0 {
			return string(append(out, chunk[:i]...)), nil
		}
		out = append(out, chunk...)
		at += mem.Virt(n)
	}
	return "", fmt.Errorf("string at %v: %w", at, ErrNoString)
}
