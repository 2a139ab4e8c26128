package kernel

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// CodeSlots lists the places in a module's writable data that its file makes
// pointers to functions, of the module itself, of the kernel or of other modules,
// in ascending order. It needs the modules it depends on to be in what is expected.
// Left out are the module's own description, of which the loader takes functions
// and frees some, data of CPUs, which is copied for each, and pointers to text that
// is freed once the module is loaded. The kernel's own are [Image.CodeSlots].
func (t *Text) CodeSlots() ([]CodeSlot, error) {
	if t.linker == nil {
		return nil, nil
	}
	t.slotted.Do(func() { t.slots, t.slotsErr = t.linker.codeSlots() })
	return t.slots, t.slotsErr
}

func (l *linker) codeSlots() ([]CodeSlot, error) {
	var out []CodeSlot
	for i, s := range l.file.elf.sections {
		if s.flags&(shfAlloc|shfWrite|shfExec) != shfAlloc|shfWrite || l.addr[i] == 0 || len(s.data) == 0 || !keepsPointers(s.name) {
			continue
		}
		for c := bin.Little(l.relocations[i]); c.Len() >= 24; {
			offset, info, addend := c.U64(), c.U64(), c.U64()
			if uint32(info) != reloc64 || !l.leadsIntoText(uint32(info>>32)) {
				continue
			}
			if offset > uint64(len(s.data)) || uint64(len(s.data))-offset < 8 {
				return nil, fmt.Errorf("%s+%#x: %w: outside of the section", s.name, offset, ErrRelocation)
			}
			target, err := l.resolve(uint32(info >> 32))
			if err != nil {
				return nil, fmt.Errorf("%s+%#x: %w", s.name, offset, err)
			}
			if l.env.textOf(target+addend) != nil {
				out = append(out, CodeSlot{At: mem.Virt(l.addr[i] + offset), Target: mem.Virt(target + addend)})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b CodeSlot) int { return cmp.Compare(a.At, b.At) })
	return out, nil
}

// keepsPointers reports whether the pointers of a writable section are what the
// file says once the module is loaded.
func keepsPointers(section string) bool {
	return section != ".gnu.linkonce.this_module" && section != ".data..percpu" && !strings.HasPrefix(section, ".init")
}

// leadsIntoText reports whether a symbol may be in text that stays: it is the
// module's own, in such a section, or somebody else's.
func (l *linker) leadsIntoText(index uint32) bool {
	if uint64(index) >= uint64(len(l.file.symbols)) {
		return true // an error of resolve
	}
	s := &l.file.symbols[index]
	if s.section == shnUndef || int(s.section) >= len(l.addr) {
		return s.section == shnUndef && s.name != ""
	}
	section := &l.file.elf.sections[s.section]
	return section.flags&shfExec != 0 && l.addr[s.section] != 0 && !strings.HasPrefix(section.name, ".init")
}

// NameOfData names a place in a module's writable data, as "module:object+0x10";
// empty if no expected module has it.
func (e *Expected) NameOfData(at mem.Virt) string {
	for _, t := range e.modules {
		slots, err := t.CodeSlots()
		if err != nil || len(slots) == 0 || at < slots[0].At || at > slots[len(slots)-1].At {
			continue
		}
		if name, start, ok := t.symbols.Lookup(uint64(at)); ok {
			if offset := uint64(at) - start; offset != 0 {
				name = fmt.Sprintf("%s+%#x", name, offset)
			}
			return t.Name + ":" + name
		}
	}
	return ""
}
