package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ModuleSymbols are the symbols of a module, at the addresses it was loaded to.
type ModuleSymbols struct {
	*Symbols
	sizes map[string]uint64
	bytes int // about, that they take
}

// Memory is about how much memory they take, in bytes.
func (s *ModuleSymbols) Memory() int { return s.bytes }

// Size returns the size of the object a symbol names, in bytes; 0 if unknown.
func (s *ModuleSymbols) Size(name string) uint64 { return s.sizes[name] }

// Limits on a module's symbol table. The largest of Debian's modules, amdgpu,
// has 40,000 symbols.
const (
	maxModuleSymbols = 1 << 18
	maxModuleNames   = 16 << 20 // bytes
	maxSymbolName    = 512
	elfSymbolSize    = 24 // sizeof(Elf64_Sym), System V gABI, "Symbol Table"
)

// ModuleSymbols reads a module's symbols from struct mod_kallsyms
// (include/linux/module.h), which keeps the ELF symbols of its core sections.
func (p *Profile) ModuleSymbols(m *LoadedModule) (*ModuleSymbols, error) {
	at, err := p.Types.Offset("module", "core_kallsyms")
	if err != nil {
		return nil, err
	}
	var offsets [4]uint64
	for i, name := range []string{"symtab", "num_symtab", "strtab", "typetab"} {
		if offsets[i], err = p.Types.Offset("mod_kallsyms", name); err != nil {
			return nil, err
		}
	}
	head := make([]byte, 64)
	if err := p.Space.Read(head, m.At+mem.Virt(at)); err != nil {
		return nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
	}
	count := u32(head, offsets[1])
	if count > maxModuleSymbols {
		return nil, fmt.Errorf("symbols of module %s: %w: %d symbols", m.Name, ErrModule, count)
	}
	table := make([]byte, int(count)*elfSymbolSize)
	if err := p.Space.Read(table, mem.Virt(u64(head, offsets[0]))); err != nil {
		return nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
	}
	kinds := make([]byte, count)
	if err := p.Space.Read(kinds, mem.Virt(u64(head, offsets[3]))); err != nil {
		return nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
	}
	names, err := p.moduleNames(m, mem.Virt(u64(head, offsets[2])), table)
	if err != nil {
		return nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
	}
	s, err := p.moduleTypes.symbolsOf(table, kinds, names)
	if err != nil {
		return nil, fmt.Errorf("symbols of module %s: %w", m.Name, err)
	}
	return s, nil
}

// symbolsOf reads tables, or returns what the same bytes gave before.
func (k *moduleTypes) symbolsOf(table, kinds, names []byte) (*ModuleSymbols, error) {
	h := blake3.New()
	for _, b := range [][]byte{table, kinds, names} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b)))) // never fails
		_, _ = h.Write(b)
	}
	key := [32]byte(h.Sum(nil))
	k.mu.Lock()
	known := k.bySymbols[key]
	k.mu.Unlock()
	if known != nil {
		return known, nil
	}
	s, err := parseModuleSymbols(table, kinds, names)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.symbols+s.bytes > maxKeptSymbols {
		clear(k.bySymbols)
		k.symbols = 0
	}
	k.bySymbols[key] = s
	k.symbols += s.bytes
	return s, nil
}

// Bounds of what symbols take, in bytes: those of one module, and all that a
// profile keeps. A module that is loaded again has other addresses. Each symbol
// takes some 200 bytes beside its name, and names of a hostile target overlap.
const (
	maxSymbolBytes = 64 << 20
	maxKeptSymbols = 256 << 20
	symbolBytes    = 200
)

// moduleNames reads the string table as far as the symbols reach into it. It
// lies at the end of the module's data, so it may not be read past that.
func (p *Profile) moduleNames(m *LoadedModule, at mem.Virt, table []byte) ([]byte, error) {
	last := uint32(0)
	for i := 0; i < len(table); i += elfSymbolSize {
		last = max(last, u32(table[i:], 0))
	}
	size := uint64(last) + maxSymbolName
	for _, a := range m.Areas {
		if a.Contains(at) {
			size = min(size, uint64(a.End()-at))
		}
	}
	if size > maxModuleNames {
		return nil, fmt.Errorf("%w: %d bytes of names", ErrModule, size)
	}
	names := make([]byte, size)
	return names, p.Space.Read(names, at)
}

// parseModuleSymbols leaves out what is not defined in the module or has no
// name that ends.
func parseModuleSymbols(table, kinds, names []byte) (*ModuleSymbols, error) {
	s := &ModuleSymbols{sizes: make(map[string]uint64)}
	var list []Symbol
	for i := 0; i+elfSymbolSize <= len(table) && i/elfSymbolSize < len(kinds); i += elfSymbolSize {
		c := bin.Little(table[i : i+elfSymbolSize])
		nameAt := c.U32()
		c.Skip(2) // st_info, st_other
		section := c.U16()
		value, size := c.U64(), c.U64()
		if section == 0 || uint64(nameAt) >= uint64(len(names)) {
			continue
		}
		name, _, ended := bytes.Cut(names[nameAt:min(uint64(len(names)), uint64(nameAt)+maxSymbolName)], []byte{0})
		if !ended || len(name) == 0 || !printable(name) {
			continue
		}
		if s.bytes += symbolBytes + len(name); s.bytes > maxSymbolBytes {
			return nil, fmt.Errorf("%w: over %d bytes of symbols", ErrModule, maxSymbolBytes)
		}
		list = append(list, Symbol{Addr: value, Kind: kinds[i/elfSymbolSize], Name: string(name)})
		s.sizes[string(name)] = size
	}
	s.Symbols = NewSymbols(list)
	return s, nil
}
