package kernel

import (
	"fmt"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Bounds of modules' BTF, in bytes: of one, and of all whose types a profile
// keeps. amdgpu has 1 MiB. Read, they take some ten times that.
const (
	maxModuleBTF = 8 << 20
	maxKeptBTF   = 32 << 20
)

// moduleTypes keeps modules' types by the digest of their BTF, and their symbols
// by that of their tables. A target may change both at will: past the bounds all
// is forgotten.
type moduleTypes struct {
	mu        sync.Mutex
	by        map[[32]byte]*Types
	btf       int // bytes of BTF in all of by
	bySymbols map[[32]byte]*ModuleSymbols
	symbols   int // bytes in all of bySymbols
}

// ModuleTypes returns the types of a module on top of the kernel's. They are
// found on the list btf_modules (kernel/bpf/btf.c): module.btf_data points to
// memory that is freed after loading.
func (p *Profile) ModuleTypes(m *LoadedModule) (*Types, error) {
	raw, err := p.moduleBTF(m)
	if err != nil {
		return nil, fmt.Errorf("types of module %s: %w", m.Name, err)
	}
	digest := blake3.Sum256(raw)
	p.moduleTypes.mu.Lock()
	defer p.moduleTypes.mu.Unlock()
	if t := p.moduleTypes.by[digest]; t != nil {
		return t, nil
	}
	t, err := parseTypes(raw, p.Types)
	if err != nil {
		return nil, fmt.Errorf("types of module %s: %w", m.Name, err)
	}
	if p.moduleTypes.btf+len(raw) > maxKeptBTF {
		clear(p.moduleTypes.by)
		p.moduleTypes.btf = 0
	}
	p.moduleTypes.by[digest] = t
	p.moduleTypes.btf += len(raw)
	return t, nil
}

func (p *Profile) moduleBTF(m *LoadedModule) ([]byte, error) {
	head, ok := p.Symbol("btf_modules")
	if !ok {
		return nil, fmt.Errorf("%w: no btf_modules", ErrNoTypes)
	}
	var offsets [5]uint64
	for i, of := range [][2]string{
		{"btf_module", "list"}, {"btf_module", "module"}, {"btf_module", "btf"},
		{"btf", "data"}, {"btf", "data_size"},
	} {
		var err error
		if offsets[i], err = p.Types.Offset(of[0], of[1]); err != nil {
			return nil, err
		}
	}
	entries, err := List(p.Space, head, maxModules)
	for _, at := range entries {
		at -= mem.Virt(offsets[0])
		owner, err := p.Space.U64(at + mem.Virt(offsets[1]))
		if err != nil {
			return nil, err
		}
		if mem.Virt(owner) != m.At {
			continue
		}
		btf, err := p.Space.U64(at + mem.Virt(offsets[2]))
		if err != nil {
			return nil, err
		}
		return p.btfData(mem.Virt(btf), offsets[3], offsets[4])
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: not on the list of modules' BTF", ErrNoTypes)
}

// btfData reads the raw BTF that a struct btf holds.
func (p *Profile) btfData(at mem.Virt, data, dataSize uint64) ([]byte, error) {
	from, err := p.Space.U64(at + mem.Virt(data))
	if err != nil {
		return nil, err
	}
	size, err := p.Space.U32(at + mem.Virt(dataSize))
	if err != nil {
		return nil, err
	}
	if size > maxModuleBTF {
		return nil, fmt.Errorf("%w: %d bytes", ErrNoTypes, size)
	}
	raw := make([]byte, size)
	return raw, p.Space.Read(raw, mem.Virt(from))
}
