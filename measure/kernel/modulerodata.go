package kernel

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Section is a part of a module's read-only data with its expected contents.
type Section struct {
	Name string
	At   mem.Virt
	Want []byte
}

// changedAtLoad are read-only sections that the loader itself writes to: it sorts
// them (sort_extable, unwind_module_init, ftrace_process_locs) or, since 6.10,
// notes how long nested alternatives are (apply_alternatives).
var changedAtLoad = map[string]bool{
	"__ex_table": true, ".orc_unwind": true, ".orc_unwind_ip": true, ".orc_header": true, "__mcount_loc": true,
	".altinstructions": true,
}

// Rodata returns the sections of a module's read-only data. The kernel's own is
// [Expected.Rodata]. Sections that the loader changes and what lies between
// sections are left out.
func (t *Text) Rodata() ([]Section, error) {
	if t.linker == nil {
		return nil, nil
	}
	t.linked.Do(func() { t.sections, t.sectionsErr = t.linkRodata() })
	return t.sections, t.sectionsErr
}

func (t *Text) linkRodata() ([]Section, error) {
	var out []Section
	for i, s := range t.linker.file.elf.sections {
		at := t.linker.addr[i]
		if s.flags&(shfAlloc|shfWrite|shfExec) != shfAlloc || at == 0 || len(s.data) == 0 || changedAtLoad[s.name] {
			continue
		}
		if !t.rodata.Contains(mem.Virt(at)) || !t.rodata.Contains(mem.Virt(at)+mem.Virt(len(s.data)-1)) {
			continue // init data, freed by now
		}
		linked, err := t.linker.relocated(i)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", t.Name, err)
		}
		out = append(out, Section{Name: s.name, At: mem.Virt(at), Want: linked.data})
	}
	return out, nil
}

// Compare returns what differs; seen is the whole section.
func (s *Section) Compare(seen []byte) []Difference {
	if len(seen) != len(s.Want) {
		return nil
	}
	return runs(s.At, seen, s.Want, "read-only data of a module differs from its file, in "+s.Name)
}
