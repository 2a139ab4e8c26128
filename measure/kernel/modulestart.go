package kernel

import (
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// StartCode is the text that a module runs at its start, which has memory of its own until
// that is over: the executable sections named ".init". It is an error if the module has
// none, or no memory for it. What is compared with it is not approved by that: no
// pointer may lead there.
func (t *Text) StartCode() (*Text, error) {
	if t.linker == nil {
		return nil, fmt.Errorf("%w: no module", ErrRelocation)
	}
	t.started.Do(func() { t.start, t.startErr = t.linker.start(t.Name) })
	return t.start, t.startErr
}

func (l *linker) start(name string) (*Text, error) {
	var first, last uint64
	for i, s := range l.file.elf.sections {
		if at := l.addr[i]; l.startCode(i) {
			if first == 0 || at < first {
				first = at
			}
			last = max(last, at+s.size)
		}
	}
	var area Area
	for _, a := range l.areas {
		if a.Kind == AreaInit && a.Contains(mem.Virt(first)) {
			area = a
		}
	}
	if area.Size == 0 || area.Start%mem.PageSize != 0 || last < first || last > uint64(area.End()) || last-uint64(area.Start) > l.codeSize() {
		return nil, fmt.Errorf("%w: no memory for the code of its start", ErrRelocation)
	}
	text := span{"text", uint64(area.Start), make([]byte, inPages(last-uint64(area.Start)))}
	o := object{text: text}
	t, err := l.tables()
	if err != nil {
		return nil, err
	}
	for i, s := range l.file.elf.sections {
		replacements := s.name == ".altinstr_replacement" && l.addr[i] != 0 && s.flags&shfAlloc != 0
		if !replacements && !l.startCode(i) {
			continue
		}
		code, err := l.relocated(i)
		if err != nil {
			return nil, err
		}
		if replacements {
			o.replacements = code
		} else {
			copy(text.data[code.addr-text.addr:], code.data)
		}
	}
	if err := o.build(t); err != nil {
		return nil, err
	}
	return &Text{Name: name, Start: area.Start, Pages: len(text.data) / mem.PageSize, obj: &o, symbols: l.symbolTable(),
		want: func() []byte { return text.data }, replacements: func() []byte { return o.replacements.data }}, nil
}

// startCode reports whether a section is code of the module's start.
func (l *linker) startCode(i int) bool {
	s := &l.file.elf.sections[i]
	return s.flags&(shfAlloc|shfExec) == shfAlloc|shfExec && len(s.data) > 0 && l.addr[i] != 0 && strings.HasPrefix(s.name, ".init")
}
