package kernel

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Object returns what the file of a loaded module has for an object of its
// data: size bytes, relocated to where the target loaded it. The module and
// those it depends on have to be in e.
func (e *Expected) Object(file *ModuleFile, at *LoadedModule, symbol string, size uint64) ([]byte, error) {
	l := newLinker(e, file, at)
	if l.unplaced != nil {
		return nil, fmt.Errorf("module %s: %w", at.Name, l.unplaced)
	}
	for _, s := range file.symbols {
		if s.name != symbol || s.section == shnUndef || int(s.section) >= len(l.addr) {
			continue
		}
		section, err := l.relocated(int(s.section))
		if err != nil {
			return nil, fmt.Errorf("module %s: %s: %w", at.Name, symbol, err)
		}
		if s.value > uint64(len(section.data)) || size > uint64(len(section.data))-s.value {
			return nil, fmt.Errorf("module %s: %s: %w: not %d bytes", at.Name, symbol, ErrFormat, size)
		}
		return section.data[s.value:][:size], nil
	}
	return nil, fmt.Errorf("module %s: %w: no %s", at.Name, ErrFormat, symbol)
}

// Place returns where an object of a module's file lies in the target and its
// size in bytes.
func (t *Text) Place(symbol string) (at mem.Virt, size uint64, ok bool) {
	if t.linker == nil {
		return 0, 0, false
	}
	for _, s := range t.linker.file.symbols {
		if s.name == symbol && s.section != shnUndef && int(s.section) < len(t.linker.addr) && t.linker.addr[s.section] != 0 {
			return mem.Virt(t.linker.addr[s.section] + s.value), s.size, true
		}
	}
	return 0, 0, false
}
