package kernel

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// PointerSlots lists the places in a module's writable data that its file makes
// pointers to functions or to constant tables of functions, of the module itself, of
// the kernel or of other modules, in ascending order. It needs the modules it depends
// on to be in what is expected. Left out are the module's own description, of which the
// loader takes functions and frees some, data of CPUs, which is copied for each, and
// pointers to what is freed once the module is loaded. The kernel's own, to functions,
// are [Image.CodeSlots].
func (t *Text) PointerSlots() ([]PointerSlot, error) {
	if t.linker == nil {
		return nil, nil
	}
	t.slotted.Do(func() { t.slots, t.slotsErr = t.linker.pointerSlots() })
	return t.slots, t.slotsErr
}

func (l *linker) pointerSlots() ([]PointerSlot, error) {
	var out []PointerSlot
	for i, s := range l.file.elf.sections {
		if s.flags&(shfAlloc|shfWrite|shfExec) != shfAlloc|shfWrite || l.addr[i] == 0 || len(s.data) == 0 || !keepsPointers(s.name) {
			continue
		}
		for c := bin.Little(l.relocations[i]); c.Len() >= 24; {
			offset, info, addend := c.U64(), c.U64(), c.U64()
			if uint32(info) != reloc64 || !l.leadsToWhatStays(uint32(info>>32)) {
				continue
			}
			if offset > uint64(len(s.data)) || uint64(len(s.data))-offset < 8 {
				return nil, fmt.Errorf("%s+%#x: %w: outside of the section", s.name, offset, ErrRelocation)
			}
			target, err := l.resolve(uint32(info >> 32))
			if err != nil {
				return nil, fmt.Errorf("%s+%#x: %w", s.name, offset, err)
			}
			slot := PointerSlot{At: mem.Virt(l.addr[i] + offset), Target: mem.Virt(target + addend)}
			slot.Table = l.env.Constant(target+addend) && l.env.functionTable(target+addend)
			if slot.Table || l.env.textOf(target+addend) != nil {
				out = append(out, slot)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b PointerSlot) int { return cmp.Compare(a.At, b.At) })
	return out, nil
}

// Constant reports whether an address lies in read-only data of the kernel or a module,
// as far as that is compared with the files.
func (e *Expected) Constant(at uint64) bool {
	if r := e.Rodata(); at >= uint64(r.Start) && at-uint64(r.Start) < r.Size {
		return !r.SetAtBoot.Contains(mem.Virt(at))
	}
	for _, t := range e.modules {
		if !t.rodata.Contains(mem.Virt(at)) {
			continue
		}
		sections, err := t.Rodata()
		return err == nil && slices.ContainsFunc(sections, func(s Section) bool { return at >= uint64(s.At) && at-uint64(s.At) < uint64(len(s.Want)) })
	}
	return false
}

// keepsPointers reports whether the pointers of a writable section are what the
// file says once the module is loaded.
func keepsPointers(section string) bool {
	return section != ".gnu.linkonce.this_module" && section != ".data..percpu" && !strings.HasPrefix(section, ".init")
}

// leadsToWhatStays reports whether a symbol may be in text or constant data that stay,
// strings left out: it is the module's own, in such a section, or somebody else's.
func (l *linker) leadsToWhatStays(index uint32) bool {
	if uint64(index) >= uint64(len(l.file.symbols)) {
		return true // an error of resolve
	}
	s := &l.file.symbols[index]
	if s.section == shnUndef || int(s.section) >= len(l.addr) {
		return s.section == shnUndef && s.name != ""
	}
	section := &l.file.elf.sections[s.section]
	return section.flags&(shfWrite|shfStrings) == 0 && l.addr[s.section] != 0 && !strings.HasPrefix(section.name, ".init")
}

// NameOfData names a place in a module's writable data, as "module:object+0x10";
// empty if no expected module has it.
func (e *Expected) NameOfData(at mem.Virt) string {
	for _, t := range e.modules {
		slots, err := t.PointerSlots()
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
