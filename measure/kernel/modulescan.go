package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// ModuleBugs returns the addresses of the modules on the list by which a WARN or
// BUG finds its place (lib/bug.c, module_bug_list).
func (p *Profile) ModuleBugs() ([]mem.Virt, error) {
	head, ok := p.Symbol("module_bug_list")
	link, err := p.Types.Offset("module", "bug_list")
	if !ok || err != nil {
		return nil, fmt.Errorf("modules with bug tables: %w (%w)", ErrNoSymbols, err)
	}
	nodes, err := List(p.Space, head, maxModules)
	for i := range nodes {
		nodes[i] -= mem.Virt(link)
	}
	return nodes, err
}

// maxModuleScan bounds the memory that is searched for modules, in bytes.
const maxModuleScan = 512 << 20

// moduleAlign is how struct module is aligned (____cacheline_aligned).
const moduleAlign = 64

var errModuleScan = errors.New("too much memory in the area of modules")

// ModulesInMemory searches the area of modules for what looks like a struct
// module, whoever may have a pointer to it: its object for sysfs points back to
// it (mkobj.mod), and it has memory of its own where modules have. The loader
// copies the file's structure first, with nothing in the former, and fills that in
// before the module runs. Other data may by chance refer to itself at the same
// distance, so the one without the other is no module.
func (p *Profile) ModulesInMemory() ([]mem.Virt, error) {
	back, err := p.Types.Offset("module", "mkobj", "mod")
	if err != nil {
		return nil, fmt.Errorf("modules in memory: %w", err)
	}
	layout, err := p.moduleLayout()
	if err != nil {
		return nil, fmt.Errorf("modules in memory: %w", err)
	}
	s := moduleScan{Profile: p, layout: layout, back: back}
	from, to := ModuleArea()
	err = p.Space.Walk(from, to-1, func(m paging.Mapping) bool {
		if m.Flags&paging.NoExecute == 0 || m.Virt < p.End && m.Virt >= p.Base {
			return true
		}
		if s.end != m.Virt || len(s.buf) == 0 {
			s.search()
			s.start, s.end = m.Virt, m.Virt
		}
		if s.total += m.Size; s.total > maxModuleScan {
			return false
		}
		page := make([]byte, m.Size)
		if p.Space.Read(page, m.Virt) != nil {
			s.search()
			return true
		}
		s.buf = append(s.buf, page...)
		s.end += mem.Virt(m.Size)
		return true
	}, nil)
	s.search()
	if s.total > maxModuleScan {
		err = errModuleScan
	}
	if err != nil {
		return s.out, fmt.Errorf("modules in memory: %w", err)
	}
	return s.out, nil
}

// moduleScan searches runs of pages.
type moduleScan struct {
	*Profile
	layout     *moduleLayout
	back       uint64
	start, end mem.Virt // of the run
	buf        []byte
	total      uint64
	out        []mem.Virt
}

func (s *moduleScan) search() {
	for at := uint64(0); at+s.back+8 <= uint64(len(s.buf)); at += moduleAlign {
		if binary.LittleEndian.Uint64(s.buf[at+s.back:]) == uint64(s.start)+at && s.hasMemory(s.buf[at:]) {
			s.out = append(s.out, s.start+mem.Virt(at))
		}
	}
	s.buf = s.buf[:0]
}

// hasMemory reports whether a struct module has areas, each where modules do.
func (s *moduleScan) hasMemory(raw []byte) bool {
	if uint64(len(raw)) < s.layout.size {
		return false // a structure does not end in other memory than it starts
	}
	found := 0
	for _, l := range s.layout.areas {
		areas, err := l.read(raw[:s.layout.size])
		if err != nil {
			return false
		}
		found += len(areas)
	}
	return found > 0
}
