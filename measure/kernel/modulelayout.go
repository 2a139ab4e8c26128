package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A module says where its sections are when it gets its directory in sysfs
// (mod_sysfs_setup), which is long after its code can be executed: it is told to
// ftrace, jump labels and static calls first, and waits for the locks of each
// (load_module, kernel/module/main.c, kernel/module.c up to 5.18). Until then they
// follow from its file: the loader puts them one behind the other, in the order of the
// file, into memory for text, constant data, data that is constant after its start, and
// other data; what is for its start only, named ".init", has memory of its own
// (layout_sections, up to 6.3; __layout_sections since). That must fill the memory
// that the module has, else none of it is believed.

// memoryOf are the kinds of a section's memory, in the order of the loader's masks.
var memoryOf = []AreaKind{AreaText, AreaRodata, AreaROAfterInit, AreaData}

// notLoaded are sections that the loader reads from the file and does not load
// (rewrite_section_headers; elf_validity_cache_copy of later kernels). It makes room
// for the data of CPUs elsewhere.
var notLoaded = map[string]bool{
	".modinfo": true, "__versions": true, "__version_ext_crcs": true, "__version_ext_names": true, ".data..percpu": true,
}

// layOut places the sections where the loader does. Whether the table of static calls
// is among what is constant after the start (module_mark_ro_after_init, since 6.15) is
// seen from the memory that the module has, or from modules added before.
func (l *linker) layOut(at *LoadedModule) error {
	var found [][]uint64
	for _, calls := range []bool{false, true} {
		if l.env.callsAfterInit != nil && *l.env.callsAfterInit != calls {
			continue
		}
		addr, err := l.laidOut(at, calls)
		if err == nil && !slices.ContainsFunc(found, func(other []uint64) bool { return slices.Equal(other, addr) }) {
			found = append(found, addr)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: the target does not say where its sections are, and its memory fits %d layouts of its file", ErrRelocation, len(found))
	}
	l.addr = found[0]
	return nil
}

// laidOut computes one layout.
func (l *linker) laidOut(at *LoadedModule, callsAfterInit bool) ([]uint64, error) {
	addr := make([]uint64, len(l.addr))
	var core, init [4]uint64 // bytes, by memoryOf
	offset := make([]uint64, len(l.addr))
	memory := func(s *elfSection) int {
		switch {
		case s.flags&shfExec != 0:
			return 0
		case s.flags&shfWrite == 0:
			return 1
		case afterInit(s.name) && (callsAfterInit || s.name != ".static_call_sites") && !isInit(s.name):
			return 2
		}
		return 3
	}
	loaded := func(s *elfSection) bool { return s.flags&shfAlloc != 0 && !notLoaded[s.name] }
	for i := range l.file.elf.sections {
		s := &l.file.elf.sections[i]
		if !loaded(s) {
			continue
		}
		size := &core[memory(s)]
		if isInit(s.name) {
			size = &init[memory(s)]
		}
		align := max(s.align, 1)
		if s.size > maxModule || align > maxModule || *size > maxModule {
			return nil, fmt.Errorf("%w: %s of %d bytes, aligned to %d", ErrRelocation, s.name, s.size, align)
		}
		offset[i] = (*size + align - 1) / align * align
		*size = offset[i] + s.size
	}
	coreAt, ok1 := coreMemory(at, core)
	initAt, ok2 := initMemory(at, init)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: its memory is not what its file needs", ErrRelocation)
	}
	for i := range l.file.elf.sections {
		s := &l.file.elf.sections[i]
		switch {
		case s.name == ".data..percpu" && s.flags&shfAlloc != 0:
			addr[i] = uint64(at.PerCPU)
		case !loaded(s):
		case isInit(s.name):
			addr[i] = uint64(initAt[memory(s)]) + offset[i]
		default:
			addr[i] = uint64(coreAt[memory(s)]) + offset[i]
		}
	}
	return addr, nil
}

// isInit reports whether a section is for the module's start only
// (module_init_layout_section).
func isInit(section string) bool { return strings.HasPrefix(section, ".init") }

// coreMemory returns where each kind of the memory that stays begins, if the module
// has as much of it as its sections need: no more, in pages, but for data, behind which
// its symbols are (layout_symtab).
func coreMemory(at *LoadedModule, need [4]uint64) (start [4]mem.Virt, ok bool) {
	for i, kind := range memoryOf {
		area, has := at.Area(kind)
		if has && area.Start%mem.PageSize != 0 {
			return start, false
		}
		start[i] = area.Start
		if i == 3 && need[i] <= area.Size {
			continue
		}
		if inPages(need[i]) != inPages(area.Size) {
			return start, false
		}
	}
	return start, true
}

// initMemory does the same for what is for the start: up to 6.3 one area, in which each
// kind begins on a page of its own, since then areas of text, data and constant data,
// of which each module has the second, for its symbols.
func initMemory(at *LoadedModule, need [4]uint64) (start [4]mem.Virt, ok bool) {
	var areas []Area
	for _, a := range at.Areas {
		if a.Kind == AreaInit {
			areas = append(areas, a)
		}
	}
	if need[2] != 0 {
		return start, false // nothing is constant after a start that is over
	}
	if len(areas) == 1 {
		next := uint64(0)
		for i := range need {
			start[i] = areas[0].Start + mem.Virt(next)
			if next += need[i]; i < 3 {
				next = inPages(next)
			}
		}
		return start, next <= areas[0].Size && areas[0].Start%mem.PageSize == 0
	}
	for _, i := range []int{0, 3, 1} {
		if need[i] == 0 && i != 3 {
			continue
		}
		if len(areas) == 0 || areas[0].Start%mem.PageSize != 0 || need[i] > areas[0].Size || i != 3 && inPages(need[i]) != inPages(areas[0].Size) {
			return start, false
		}
		start[i], areas = areas[0].Start, areas[1:]
	}
	return start, len(areas) == 0
}

func inPages(size uint64) uint64 { return (size + mem.PageSize - 1) &^ (mem.PageSize - 1) }

// learnLayout notes where the loader of this kernel puts tables of static calls, by a
// module that says where it has one.
func (l *linker) learnLayout(at *LoadedModule) {
	calls, ok := at.Section(".static_call_sites")
	if !ok || l.env.callsAfterInit != nil {
		return
	}
	area, _ := at.Area(AreaROAfterInit)
	after := area.Contains(calls)
	l.env.callsAfterInit = &after
}
