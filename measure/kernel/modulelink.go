package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrRelocation means that a module's file cannot be linked to the addresses at
// which the target says it loaded it.
var ErrRelocation = errors.New("module cannot be relocated")

// Relocation types (x86-64 psABI 1.0, table 4.9; apply_relocate_add in
// arch/x86/kernel/module.c knows these).
const (
	relocNone  = 0
	reloc64    = 1
	relocPC32  = 2
	relocPLT32 = 4
	reloc32    = 10
	reloc32S   = 11
	relocPC64  = 24
)

// AddModule links file to where the target loaded it and adds its text to what
// is expected. Modules it depends on have to be added before it. It returns
// [ErrOtherBuild] or [ErrRelocation] if the file does not belong there.
func (e *Expected) AddModule(file *ModuleFile, at *LoadedModule) (*Text, error) {
	if at.BuildID != "" && file.BuildID != at.BuildID {
		return nil, fmt.Errorf("module %s: %w: file %s, loaded %s", at.Name, ErrOtherBuild, file.BuildID, at.BuildID)
	}
	area, ok := at.Area(AreaText)
	codeless := !ok && file.codeless()
	if !codeless && (!ok || area.Start%mem.PageSize != 0 || area.Size == 0 || area.Size > maxModule) {
		return nil, fmt.Errorf("module %s: %w: no text area", at.Name, ErrRelocation)
	}
	l := newLinker(e, file, at)
	if l.unplaced != nil {
		return nil, fmt.Errorf("module %s: %w", at.Name, l.unplaced)
	}
	t, err := l.link(at.Name, area)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", at.Name, err)
	}
	t.linker = l
	t.rodata, _ = at.Area(AreaRodata)
	e.modules = append(e.modules, t)
	return t, nil
}

// codeless reports whether a module has no code but what runs while it is loaded:
// nls_ucs2_utils of 7.2 has tables only. The loader gives such a module no text.
func (f *ModuleFile) codeless() bool {
	for _, s := range f.elf.sections {
		if s.flags&(shfAlloc|shfExec) == shfAlloc|shfExec && s.size > 0 && !strings.HasPrefix(s.name, ".init") {
			return false
		}
	}
	return true
}

// linker does for one module what the kernel's loader does.
type linker struct {
	env  *Expected
	file *ModuleFile
	addr []uint64 // of each section, 0 where it is not loaded

	areas       []Area
	relocations map[int][]byte // Elf64_Rela entries, by the section they change
	unplaced    error          // why it is not known where the sections are
}

func newLinker(e *Expected, file *ModuleFile, at *LoadedModule) *linker {
	l := &linker{env: e, file: file, areas: at.Areas, addr: make([]uint64, len(file.elf.sections)), relocations: make(map[int][]byte)}
	for _, s := range file.elf.sections {
		if s.kind != shtRela || s.flags&shfRelaLivepatch != 0 && !l.reaches(s.name) {
			continue
		}
		if earlier := l.relocations[int(s.info)]; earlier != nil {
			s.data = slices.Concat(earlier, s.data)
		}
		l.relocations[int(s.info)] = s.data
	}
	l.place(at)
	return l
}

// place takes the sections' addresses from the loaded module, or lays them out if that
// says nothing yet.
func (l *linker) place(at *LoadedModule) {
	if len(at.Sections) == 0 {
		l.unplaced = l.layOut(at)
		return
	}
	l.learnLayout(at)
	loaded := make(map[string]uint64, len(at.Sections))
	for _, s := range at.Sections {
		loaded[s.Name] = uint64(s.Addr)
	}
	for i, s := range l.file.elf.sections {
		switch {
		case s.flags&shfAlloc == 0:
		case s.name == ".data..percpu":
			l.addr[i] = uint64(at.PerCPU)
		default:
			l.addr[i] = loaded[s.name]
		}
	}
	l.placeEmpty()
}

// placeEmpty finds the addresses of sections without contents: the loader gives
// them one, symbols may lie there (lock classes are empty structures), but
// /sys/module leaves them out. They follow the section before them of the same
// kind (kernel/module/main.c, __layout_sections).
func (l *linker) placeEmpty() {
	end := make(map[[2]bool]uint64)
	for i, s := range l.file.elf.sections {
		if s.flags&shfAlloc == 0 || strings.HasPrefix(s.name, ".init") || s.name == ".data..percpu" || afterInit(s.name) {
			continue
		}
		kind := [2]bool{s.flags&shfWrite != 0, s.flags&shfExec != 0}
		if s.size == 0 && l.addr[i] == 0 && end[kind] != 0 {
			align := max(s.align, 1)
			l.addr[i] = (end[kind] + align - 1) / align * align
		}
		if l.addr[i] != 0 {
			end[kind] = l.addr[i] + s.size
		}
	}
}

// afterInit reports whether the loader puts a writable section with those that
// become read-only (module_mark_ro_after_init).
func afterInit(section string) bool {
	switch section {
	case ".data..ro_after_init", "__jump_table", ".static_call_sites":
		return true
	}
	return false
}

// link relocates the text and the tables of patch sites.
func (l *linker) link(name string, area Area) (*Text, error) {
	size := (area.Size + mem.PageSize - 1) &^ (mem.PageSize - 1)
	if most := l.codeSize(); area.Size > most {
		return nil, fmt.Errorf("%w: %d bytes of text, its code has %d at most", ErrRelocation, area.Size, most)
	}
	text := span{"text", uint64(area.Start), make([]byte, size)}
	o := object{text: text}
	t, err := l.tables()
	if err != nil {
		return nil, err
	}
	inText := 0
	for i, s := range l.file.elf.sections {
		if s.flags&(shfAlloc|shfExec) != shfAlloc|shfExec || s.data == nil || len(s.data) == 0 || l.addr[i] == 0 {
			continue
		}
		code, err := l.relocated(i)
		if err != nil {
			return nil, err
		}
		if s.name == ".altinstr_replacement" {
			o.replacements = code
		}
		if text.holds(code.addr, len(code.data)) {
			copy(text.data[code.addr-text.addr:], code.data)
			inText++
		} else if !strings.HasPrefix(s.name, ".init") {
			return nil, fmt.Errorf("%w: %s at %#x is not in the module's text", ErrRelocation, s.name, code.addr)
		}
	}
	if inText == 0 && size > 0 {
		return nil, fmt.Errorf("%w: the target says of no section of its code where it is", ErrRelocation)
	}
	if err := o.build(t); err != nil {
		return nil, err
	}
	return &Text{Name: name, Start: area.Start, Pages: int(size / mem.PageSize), obj: &o, symbols: l.symbolTable(),
		want: func() []byte { return text.data }, replacements: func() []byte { return o.replacements.data }, exports: l.exports()}, nil
}

// exports are the addresses of the module's global symbols.
func (l *linker) exports() map[string]uint64 {
	out := make(map[string]uint64, len(l.file.global))
	for name, i := range l.file.global {
		if s := l.file.symbols[i]; int(s.section) < len(l.addr) && l.addr[s.section] != 0 {
			out[name] = l.addr[s.section] + s.value
		}
	}
	return out
}

// codeSize is the most that the executable sections can take up, each rounded up
// to two pages of alignment.
func (l *linker) codeSize() uint64 {
	var n uint64
	for _, s := range l.file.elf.sections {
		if s.flags&(shfAlloc|shfExec) == shfAlloc|shfExec {
			n += s.size + 2*mem.PageSize
		}
	}
	return n
}

// tables are those of patch sites, which in a module are sections.
func (l *linker) tables() (*tables, error) {
	var t tables
	var called *span // where calls are counted
	if l.env.facts.CallDepth {
		called = &t.called
	}
	into := map[string]*span{
		".altinstructions": &t.alternatives, ".parainstructions": &t.paravirt, ".retpoline_sites": &t.retpolines,
		".return_sites": &t.returns, ".ibt_endbr_seal": &t.seals, ".smp_locks": &t.locks, ".call_sites": called,
		".static_call_sites": &t.calls, "__jump_table": &t.jumps, "__mcount_loc": &t.trace,
	}
	for i, s := range l.file.elf.sections {
		constant := strings.HasPrefix(s.name, "runtime_ptr_") || strings.HasPrefix(s.name, "runtime_shift_")
		if l.addr[i] == 0 || into[s.name] == nil && !constant {
			continue
		}
		table, err := l.relocated(i)
		if err != nil {
			return nil, err
		}
		if constant {
			t.constants = append(t.constants, table)
		} else {
			*into[s.name] = table
		}
	}
	for _, s := range l.file.symbols {
		if strings.HasPrefix(s.name, "__SCT__") && s.section != shnUndef && int(s.section) < len(l.addr) {
			t.trampolines = append(t.trampolines, l.addr[s.section]+s.value)
		}
	}
	return &t, nil
}

// relocated returns a section as the loader leaves it.
func (l *linker) relocated(index int) (span, error) {
	s := &l.file.elf.sections[index]
	out := span{s.name, l.addr[index], bytes.Clone(s.data)}
	for c := bin.Little(l.relocations[index]); c.Len() >= 24; {
		offset, info, addend := c.U64(), c.U64(), c.U64()
		if err := l.apply(out, offset, uint32(info), uint32(info>>32), addend); err != nil {
			return span{}, fmt.Errorf("%s+%#x: %w", s.name, offset, err)
		}
	}
	return out, nil
}

func (l *linker) apply(s span, offset uint64, kind, symbol uint32, addend uint64) error {
	size := 4
	switch kind {
	case relocNone:
		return nil
	case reloc64, relocPC64:
		size = 8
	case relocPC32, relocPLT32, reloc32, reloc32S:
	default:
		return fmt.Errorf("%w: relocation of type %d", ErrRelocation, kind)
	}
	if offset > uint64(len(s.data)) || uint64(size) > uint64(len(s.data))-offset {
		return fmt.Errorf("%w: outside of the section", ErrRelocation)
	}
	value, err := l.resolve(symbol)
	if err != nil {
		return err
	}
	value += addend
	if kind == relocPC32 || kind == relocPLT32 || kind == relocPC64 {
		value -= s.addr + offset
	}
	if size == 8 {
		binary.LittleEndian.PutUint64(s.data[offset:], value)
	} else {
		binary.LittleEndian.PutUint32(s.data[offset:], uint32(value))
	}
	return nil
}

// resolve returns a symbol's address as simplify_symbols computes it.
func (l *linker) resolve(index uint32) (uint64, error) {
	if uint64(index) >= uint64(len(l.file.symbols)) {
		return 0, fmt.Errorf("%w: symbol %d of %d", ErrRelocation, index, len(l.file.symbols))
	}
	s := &l.file.symbols[index]
	switch {
	case s.section == shnAbs:
		return s.value, nil
	case s.section == shnLivepatch:
		return l.livepatchSymbol(s.name)
	case s.section == shnUndef:
		if addr, ok := l.env.exported(s.name); ok {
			return addr, nil
		}
		return 0, fmt.Errorf("%w: no expected kernel or module exports %s", ErrRelocation, s.name)
	case int(s.section) >= len(l.addr):
		return 0, fmt.Errorf("%w: symbol %s in section %#x", ErrRelocation, s.name, s.section)
	}
	if l.addr[s.section] == 0 && l.file.elf.sections[s.section].flags&shfAlloc != 0 {
		return 0, fmt.Errorf("%w: the target does not say where %s is", ErrRelocation, l.file.elf.sections[s.section].name)
	}
	return l.addr[s.section] + s.value, nil
}

// symbolTable is the module's own, at loaded addresses.
func (l *linker) symbolTable() *Symbols {
	var list []Symbol
	for _, s := range l.file.symbols {
		if s.section == shnUndef || int(s.section) >= len(l.addr) || l.addr[s.section] == 0 || s.kind == sttSection || s.name == "" {
			continue
		}
		kind := byte('d')
		if l.file.elf.sections[s.section].flags&shfExec != 0 {
			kind = 't'
		}
		if s.global {
			kind -= 'a' - 'A'
		}
		list = append(list, Symbol{Addr: l.addr[s.section] + s.value, Kind: kind, Name: s.name})
	}
	return NewSymbols(list)
}

// exported resolves a name that a module needs from outside of it.
func (e *Expected) exported(name string) (uint64, bool) {
	if addr, ok := e.image.exports[name]; ok {
		if addr>>47 != 0 {
			addr += e.slide
		}
		return addr, true
	}
	for _, m := range slices.Backward(e.modules) {
		if addr, ok := m.exports[name]; ok {
			return addr, true
		}
	}
	return 0, false
}
