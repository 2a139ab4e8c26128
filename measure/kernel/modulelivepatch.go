package kernel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A live patch refers to symbols that nobody exports. Its relocations are in
// sections ".klp.rela.OBJECT.SECTION" and applied while OBJECT, "vmlinux" or a
// module, is there; its symbols are named ".klp.sym.OBJECT.NAME,POSITION"
// (Documentation/livepatch/module-elf-format.rst; kernel/livepatch/core.c,
// klp_resolve_symbols).
const (
	klpSection = ".klp.rela."
	klpSymbol  = ".klp.sym."
	klpKernel  = "vmlinux"
)

// reaches reports whether a live patch's section of relocations is about what is
// loaded: others are applied when their module comes.
func (l *linker) reaches(section string) bool {
	object, _, _ := strings.Cut(strings.TrimPrefix(section, klpSection), ".")
	return l.env.textNamed(object) != nil
}

// textNamed returns the expected text of the kernel or a module by the name that
// live patches have for it, nil if there is none.
func (e *Expected) textNamed(object string) *Text {
	if object == klpKernel {
		return e.kernel
	}
	i := slices.IndexFunc(e.modules, func(t *Text) bool { return t.Name == object })
	if i < 0 {
		return nil
	}
	return e.modules[i]
}

// livepatchSymbol returns the address of what a symbol of a live patch stands
// for: the only symbol of that name (position 0), or the one at a position among
// them, counted from 1 in the order of addresses.
func (l *linker) livepatchSymbol(symbol string) (uint64, error) {
	rest, ok1 := strings.CutPrefix(symbol, klpSymbol)
	object, rest, ok2 := strings.Cut(rest, ".")
	comma := strings.LastIndexByte(rest, ',')
	if !ok1 || !ok2 || comma < 0 {
		return 0, fmt.Errorf("%w: live patch symbol %q", ErrRelocation, symbol)
	}
	name := rest[:comma]
	position, err := strconv.ParseUint(rest[comma+1:], 10, 16)
	t := l.env.textNamed(object)
	if err != nil || t == nil {
		return 0, fmt.Errorf("%w: live patch symbol %q", ErrRelocation, symbol)
	}
	var found []uint64
	for _, s := range t.symbols.WithPrefix(name) {
		if s.Name == name {
			found = append(found, s.Addr)
		}
	}
	slices.Sort(found)
	if position > 0 && uint64(len(found)) >= position {
		return found[position-1] + t.slide, nil
	}
	if position > 0 || len(found) != 1 {
		return 0, fmt.Errorf("%w: %d symbols for %q", ErrRelocation, len(found), symbol)
	}
	return found[0] + t.slide, nil
}
