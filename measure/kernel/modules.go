package kernel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrModule means that a struct module is not what a loaded module's is.
var ErrModule = errors.New("module is not valid")

// LoadedModule is a module as the kernel's own list shows it.
type LoadedModule struct {
	Name     string
	At       mem.Virt // of its struct module
	BuildID  string   // GNU build-id, lower-case hex; empty if the kernel does not keep it
	Live     bool     // state is MODULE_STATE_LIVE
	State    uint32   // enum module_state (include/linux/module.h): 0 live, 1 coming, 2 going, 3 unformed
	PerCPU   mem.Virt // where its per-CPU data is, an offset like the kernel's own; 0 if it has none
	Areas    []Area
	Sections []ModuleSection // as /sys/module/NAME/sections has them; empty if the kernel does not keep them
	// Tracepoints is how many it says it has, and TracepointTable where the table of
	// them is; 0 if the kernel keeps neither.
	Tracepoints     uint32
	TracepointTable mem.Virt
}

// Area is a range of a module's memory that has one kind.
type Area struct {
	Kind  AreaKind
	Start mem.Virt
	Size  uint64 // bytes
}

// End is the first address after the area.
func (a Area) End() mem.Virt { return a.Start + mem.Virt(a.Size) }

// Contains reports whether at lies in the area.
func (a Area) Contains(at mem.Virt) bool { return at >= a.Start && at < a.End() }

// AreaKind is what an [Area] holds.
type AreaKind string

// Kinds of areas. Kernels up to 6.3 keep them in one block for the core and one
// for the init part (struct module_layout); since 6.4 each has its own
// allocation (struct module_memory).
const (
	AreaText        AreaKind = "text"
	AreaRodata      AreaKind = "rodata"
	AreaROAfterInit AreaKind = "ro-after-init"
	AreaData        AreaKind = "data"
	AreaInit        AreaKind = "init" // freed once the module is live
)

// ModuleSection is a section of a module's file and where it was loaded.
type ModuleSection struct {
	Name string
	Addr mem.Virt
}

// Area returns the module's first area of a kind.
func (m *LoadedModule) Area(kind AreaKind) (Area, bool) {
	for _, a := range m.Areas {
		if a.Kind == kind {
			return a, true
		}
	}
	return Area{}, false
}

// Section returns where a section was loaded.
func (m *LoadedModule) Section(name string) (mem.Virt, bool) {
	for _, s := range m.Sections {
		if s.Name == name {
			return s.Addr, true
		}
	}
	return 0, false
}

// Holds reports whether at lies in one of the module's areas that stay.
func (m *LoadedModule) Holds(at mem.Virt) bool {
	for _, a := range m.Areas {
		if a.Kind != AreaInit && a.Contains(at) {
			return true
		}
	}
	return false
}

// Limits on what the target's memory may claim.
const (
	maxModules       = 4096
	maxSections      = 1024
	maxAllSections   = 1 << 18 // of all modules
	maxModuleSize    = 256 << 20
	moduleNameLength = 56 // MODULE_NAME_LEN on 64-bit, include/linux/module.h
)

// Where modules live (Documentation/x86/x86_64/mm.rst).
const (
	modulesFirst mem.Virt = 0xffff_ffff_a000_0000
	modulesLast  mem.Virt = 0xffff_ffff_feff_ffff
)

// ModuleArea is where modules, and all other code that is made at run time, live:
// from the first address to before the second.
func ModuleArea() (from, to mem.Virt) { return modulesFirst, modulesLast + 1 }

// Modules lists the loaded modules, in the order of the kernel's list. The list
// is read while the target may be changing it: a list that does not hold
// together is an error with what was found so far.
func (p *Profile) Modules() ([]LoadedModule, error) {
	head, ok := p.Symbol("modules")
	if !ok {
		return nil, fmt.Errorf("list modules: %w: no symbol modules", ErrNoSymbols)
	}
	layout, err := p.moduleLayout()
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	p = p.cached()
	entries, listErr := List(p.Space, head, maxModules)
	var modules []LoadedModule
	sections := 0
	for _, at := range entries {
		m, err := p.module(layout, at-mem.Virt(layout.list))
		if err != nil {
			return modules, fmt.Errorf("list modules: %w", err)
		}
		if sections += len(m.Sections); sections > maxAllSections {
			return modules, fmt.Errorf("list modules: %w: over %d sections", ErrModule, maxAllSections)
		}
		modules = append(modules, *m)
	}
	return modules, listErr
}

// cached is a profile that remembers translations, for as long as one list takes.
func (p *Profile) cached() *Profile {
	c := *p
	c.Space = p.Space.Cached()
	return &c
}

// moduleLayout holds offsets in struct module.
type moduleLayout struct {
	size                        uint64
	list, name, state           uint64
	buildID                     *uint64 // nil if the kernel has none (before 5.14, or without CONFIG_STACKTRACE_BUILD_ID)
	sectAttrs                   *uint64
	percpu                      *uint64
	points, pointTable          *uint64 // nil without CONFIG_TRACEPOINTS
	areas                       []areaLayout
	attrsCounted                bool
	attrsCount, attrsFirst      uint64 // in struct module_sect_attrs
	attrSize, attrName, attrAdr uint64 // of one attribute
}

func (p *Profile) moduleLayout() (*moduleLayout, error) {
	var l moduleLayout
	var err error
	if l.size, err = p.Types.Size("module"); err != nil {
		return nil, err
	}
	if l.size > 1<<16 {
		return nil, fmt.Errorf("%w: struct module of %d bytes", ErrModule, l.size)
	}
	for _, f := range []struct {
		into *uint64
		name string
	}{{&l.list, "list"}, {&l.name, "name"}, {&l.state, "state"}} {
		if *f.into, err = p.Types.Offset("module", f.name); err != nil {
			return nil, err
		}
	}
	if at, err := p.Types.Offset("module", "build_id"); err == nil {
		l.buildID = &at
	}
	if at, err := p.Types.Offset("module", "percpu"); err == nil {
		l.percpu = &at
	}
	points, err1 := p.Types.Offset("module", "num_tracepoints")
	if table, err2 := p.Types.Offset("module", "tracepoints_ptrs"); err1 == nil && err2 == nil {
		l.points, l.pointTable = &points, &table
	}
	l.sections(p.Types)
	l.areas, err = areaLayouts(p.Types)
	return &l, err
}

// sections fills in where section addresses are kept: struct module_sect_attrs,
// with CONFIG_KALLSYMS. Up to 6.13 it counts them and has a type of its own for
// each; from 6.14 on they are plain binary attributes, listed by the group and
// with the address as their private pointer.
func (l *moduleLayout) sections(t *Types) {
	at, err := t.Offset("module", "sect_attrs")
	if err != nil {
		return
	}
	var errs [4]error
	if t.Has("module_sect_attrs", "nsections") {
		l.attrsCounted = true
		l.attrsCount, errs[0] = t.Offset("module_sect_attrs", "nsections")
		l.attrsFirst, errs[1] = t.Offset("module_sect_attrs", "attrs")
		l.attrName, errs[2] = t.Offset("module_sect_attr", "battr", "attr", "name")
		l.attrAdr, errs[3] = t.Offset("module_sect_attr", "address")
	} else {
		l.attrsFirst, errs[0] = t.Offset("module_sect_attrs", "grp", "bin_attrs")
		l.attrName, errs[1] = t.Offset("bin_attribute", "attr", "name")
		l.attrAdr, errs[2] = t.Offset("bin_attribute", "private")
	}
	if size, err := t.Size("module_sect_attr"); err == nil {
		l.attrSize = size
	}
	if errors.Join(errs[:]...) == nil && l.attrSize <= 1024 {
		l.sectAttrs = &at
	}
}

// module reads one struct module.
func (p *Profile) module(l *moduleLayout, at mem.Virt) (*LoadedModule, error) {
	raw := make([]byte, l.size)
	if err := p.Space.Read(raw, at); err != nil {
		return nil, fmt.Errorf("module at %v: %w", at, err)
	}
	name, _, ended := bytes.Cut(field(raw, l.name, moduleNameLength), []byte{0})
	if len(name) == 0 || !ended || !printable(name) {
		return nil, fmt.Errorf("module at %v: %w: name %q", at, ErrModule, name)
	}
	state := u32(raw, l.state)
	m := &LoadedModule{Name: string(name), At: at, Live: state == 0, State: state}
	if l.buildID != nil {
		if id := field(raw, *l.buildID, 20); !bytes.Equal(id, make([]byte, 20)) {
			m.BuildID = hex.EncodeToString(id)
		}
	}
	if l.percpu != nil {
		m.PerCPU = mem.Virt(u64(raw, *l.percpu))
	}
	if l.points != nil {
		m.Tracepoints, m.TracepointTable = u32(raw, *l.points), mem.Virt(u64(raw, *l.pointTable))
	}
	for _, a := range l.areas {
		areas, err := a.read(raw)
		if err != nil {
			return nil, fmt.Errorf("module %s at %v: %w", m.Name, at, err)
		}
		m.Areas = append(m.Areas, areas...)
	}
	if l.sectAttrs != nil {
		// Not fatal: what needs the sections notices that there are none.
		m.Sections, _ = p.moduleSections(l, mem.Virt(u64(raw, *l.sectAttrs)))
	}
	if m.BuildID == "" {
		m.BuildID = p.moduleNote(m)
	}
	return m, nil
}

// ModuleAt reads a module by the address of its struct module, on the list or not.
func (p *Profile) ModuleAt(at mem.Virt) (*LoadedModule, error) {
	if at < modulesFirst || at > modulesLast || at%moduleAlign != 0 {
		return nil, fmt.Errorf("module at %v: %w", at, ErrModule)
	}
	layout, err := p.moduleLayout()
	if err != nil {
		return nil, err
	}
	return p.module(layout, at)
}

// moduleNote reads a module's build-id from its note section, or "".
func (p *Profile) moduleNote(m *LoadedModule) string {
	at, ok := m.Section(".note.gnu.build-id")
	if !ok || !m.Holds(at) {
		return ""
	}
	var note [36]byte
	if p.Space.Read(note[:], at) != nil {
		return ""
	}
	id, err := buildIDOf(note[:])
	if err != nil {
		return ""
	}
	return id
}

func (p *Profile) moduleSections(l *moduleLayout, attrs mem.Virt) ([]ModuleSection, error) {
	list, err := p.sectionAttributes(l, attrs)
	if err != nil {
		return nil, err
	}
	sections := make([]ModuleSection, 0, len(list))
	for _, attr := range list {
		text, err := p.Space.U64(attr + mem.Virt(l.attrName))
		if err != nil {
			return nil, err
		}
		name, err := p.Space.CString(mem.Virt(text), 128)
		if err != nil {
			return nil, err
		}
		addr, err := p.Space.U64(attr + mem.Virt(l.attrAdr))
		if err != nil {
			return nil, err
		}
		sections = append(sections, ModuleSection{Name: name, Addr: mem.Virt(addr)})
	}
	return sections, nil
}

// sectionAttributes returns where the attributes of the sections are.
func (p *Profile) sectionAttributes(l *moduleLayout, attrs mem.Virt) ([]mem.Virt, error) {
	var list []mem.Virt
	if l.attrsCounted {
		count, err := p.Space.U32(attrs + mem.Virt(l.attrsCount))
		if err != nil {
			return nil, err
		}
		if count > maxSections {
			return nil, fmt.Errorf("%w: %d sections", ErrModule, count)
		}
		for i := range mem.Virt(count) {
			list = append(list, attrs+mem.Virt(l.attrsFirst)+i*mem.Virt(l.attrSize))
		}
		return list, nil
	}
	at, err := p.Space.U64(attrs + mem.Virt(l.attrsFirst))
	for ; err == nil; at += 8 {
		var attr uint64
		if attr, err = p.Space.U64(mem.Virt(at)); err != nil || attr == 0 {
			break
		}
		if len(list) == maxSections {
			return nil, fmt.Errorf("%w: over %d sections", ErrModule, maxSections)
		}
		list = append(list, mem.Virt(attr))
	}
	return list, err
}

// field returns size bytes at offset, or nothing where raw ends before.
func field(raw []byte, offset uint64, size int) []byte {
	c := bin.Little(raw)
	c.Seek(int(min(offset, 1<<30)))
	return c.Bytes(size)
}

func u64(raw []byte, offset uint64) uint64 {
	return bin.Little(field(raw, offset, 8)).U64()
}

func u32(raw []byte, offset uint64) uint32 {
	return bin.Little(field(raw, offset, 4)).U32()
}
