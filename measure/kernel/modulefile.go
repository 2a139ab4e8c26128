package kernel

import (
	"fmt"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// ModuleFile is a module as its file says it should be.
type ModuleFile struct {
	Name    string // as the kernel calls it
	BuildID string // GNU build-id, lower-case hex; empty if it has none
	// Digest is the BLAKE3 hash of the file, without its compression.
	Digest [32]byte
	// Livepatch: it replaces functions of the kernel or of other modules, and is
	// relocated against what these do not export.
	Livepatch bool

	elf     *elfFile
	symbols []elfSymbol
	global  map[string]int // defined global symbols, by name
}

// elfSymbol is an Elf64_Sym.
type elfSymbol struct {
	name    string
	kind    byte // STT_*
	global  bool
	section uint16
	value   uint64
	size    uint64
}

// Section indices with a meaning of their own, symbol types and bindings
// (ELF-64 object file format 1.5, tables 7, 14 and 15).
const (
	shnUndef  = 0
	shnAbs    = 0xfff1
	shnCommon = 0xfff2
	// Of Linux: the name says what a live patch refers to
	// (Documentation/livepatch/module-elf-format.rst).
	shnLivepatch = 0xff20

	sttFunc    = 2
	sttSection = 3
	stbLocal   = 0
	stbWeak    = 2
)

// OpenModule reads a module from a .ko file, plain or compressed with XZ, ZSTD
// or GZIP.
func OpenModule(path string) (*ModuleFile, error) {
	file, err := bin.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	m, err := NewModule(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// NewModule reads a module from the bytes of a .ko file. It returns [ErrFormat]
// or [ErrTooLarge] for anything else.
func NewModule(file []byte) (*ModuleFile, error) {
	if !strings.HasPrefix(string(file[:min(4, len(file))]), "\x7fELF") {
		var err error
		if file, err = decompress(file, maxModule); err != nil {
			return nil, err
		}
	}
	f, err := parseELF(file)
	if err != nil {
		return nil, err
	}
	m := &ModuleFile{elf: f, global: make(map[string]int), Digest: blake3.Sum256(file)}
	if notes := f.section(".note.gnu.build-id"); notes != nil {
		m.BuildID, _ = buildIDOf(notes.data)
	}
	info := f.section(".modinfo")
	if info == nil {
		return nil, fmt.Errorf("%w: no .modinfo", ErrFormat)
	}
	for _, entry := range strings.Split(string(info.data), "\x00") {
		if name, ok := strings.CutPrefix(entry, "name="); ok {
			m.Name = name
		}
		m.Livepatch = m.Livepatch || strings.HasPrefix(entry, "livepatch=")
	}
	if m.Name == "" {
		return nil, fmt.Errorf("%w: module without a name", ErrFormat)
	}
	if err := m.readSymbols(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *ModuleFile) readSymbols() error {
	table := m.elf.section(".symtab")
	if table == nil || int(table.link) >= len(m.elf.sections) {
		return fmt.Errorf("%w: no symbol table", ErrFormat)
	}
	strings := m.elf.sections[table.link].data
	m.symbols = make([]elfSymbol, 0, len(table.data)/24)
	for c := bin.Little(table.data); c.Len() >= 24; {
		name, info := c.U32(), c.U8() // 0x00, 0x04
		c.Skip(1)                     // 0x05 st_other
		s := elfSymbol{name: cString(strings, uint64(name)), kind: info & 0xf, global: info>>4 != stbLocal,
			section: c.U16(), value: c.U64(), size: c.U64()} // 0x06, 0x08, 0x10
		if s.global && s.section != shnUndef {
			m.global[s.name] = len(m.symbols)
		}
		m.symbols = append(m.symbols, s)
	}
	return nil
}
