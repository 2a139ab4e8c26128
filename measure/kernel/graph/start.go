package graph

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// maxRootSize bounds an array of which only the next symbol tells the end.
const maxRootSize = 1 << 16

// start queues all roots.
func (w *walker) start(modules []kernel.LoadedModule) {
	w.findStacks()
	for _, r := range roots {
		err := w.global(r)
		switch {
		case err == nil:
		case !errors.Is(err, errNoRoot):
			w.why["root "+err.Error()]++
		case r.other == "" || w.address(r.other) == 0:
			w.lacks = append(w.lacks, r.symbol)
		}
	}
	for _, more := range []func() error{w.perCPU, w.tracepoints} {
		if err := more(); err != nil {
			w.why["root "+err.Error()]++
		}
	}
	w.called()
	t, err := w.schema.Struct("module")
	for i := range modules {
		if err == nil {
			w.root("module "+modules[i].Name, uint64(modules[i].At), t)
		}
	}
}

// root queues a root.
func (w *walker) root(name string, at uint64, t *Type) {
	w.perRoot, w.rootNames = append(w.perRoot, 0), append(w.rootNames, name)
	w.push(node{at: at, typ: t, parent: -1, index: -1, root: int32(len(w.perRoot) - 1), typed: w.typed(at, t)})
}

var errNoRoot = errors.New("no such symbol")

func (w *walker) global(r root) error {
	if structure, member, ok := strings.Cut(r.needs, "."); ok {
		if _, err := w.schema.offset(structure, member); err != nil {
			return nil
		}
	}
	at := w.address(r.symbol)
	if at == 0 {
		return fmt.Errorf("%s: %w", r.symbol, errNoRoot)
	}
	room := min(uint64(w.profile.Symbols.Next(at))-at, maxRootSize)
	t, err := w.schema.variable(r, room)
	if err != nil {
		return fmt.Errorf("%s: %w", r.symbol, err)
	}
	w.root(r.symbol, at, t)
	return nil
}

// variable compiles a root; room is how many bytes there are before the next
// symbol.
func (s *Schema) variable(r root, room uint64) (*Type, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("%s %d", r.symbol, r.shape)
	if t := s.variables[key]; t != nil {
		return t, nil
	}
	out := &Type{Name: r.symbol, schema: s, compiled: true}
	var leads []*Type
	if r.shape == function {
		out.fields, out.pointers, out.codes, out.end = []field{{kind: code, number: s.numbers.Add(1) - 1}}, 1, 1, 8
	} else if r.shape == holds || r.shape == holdsArray {
		h, err := s.resolve(r.held)
		if err != nil {
			return nil, err
		}
		s.heads(out, h, r.shape == holdsArray, room)
		leads = append(leads, h.elem)
	} else {
		st, err := first(s.types, r.typ)
		if err != nil {
			return nil, err
		}
		out.source = st
		switch size := uint64(st.Size); r.shape {
		case pointer:
			out.source = &btf.Pointer{Target: st}
		case array:
			out.source = &btf.Array{Type: st, Nelems: uint32(room / max(size, 1))}
		case pointerArray:
			out.source = &btf.Array{Type: &btf.Pointer{Target: st}, Nelems: uint32(room / 8)}
		}
		if r.shape == value {
			out = s.declare(st, r.typ)
			leads = append(leads, out)
		} else {
			leads = s.fill(out)
		}
	}
	for _, t := range leads {
		s.settle(t)
	}
	s.variables[key] = out
	return out, nil
}

// heads makes the fields of one head of a container, or of an array of them.
func (s *Schema) heads(out *Type, h *holding, several bool, room uint64) {
	size, count := uint64(8), uint64(1)
	if h.kind == list {
		size = 16
	}
	if several {
		count = room / size
	}
	for i := range count {
		at := i*size + h.head + h.skip
		name := ""
		if several {
			name = fmt.Sprintf("[%d]", i)
		}
		out.fields = append(out.fields, field{at: uint32(at), kind: container, name: name, held: h})
		out.end = at + 8
	}
	out.low = uint64(out.fields[0].at)
}

// perCPU queues the per-CPU variables that the kernel's BTF lists.
func (w *walker) perCPU() error {
	bases, err := w.profile.PerCPU()
	if err != nil {
		return err
	}
	known := w.schema.perCPUVariables()
	for _, v := range known {
		at, ok := w.profile.Symbol(v.name)
		if !ok {
			continue
		}
		for cpu, base := range bases {
			w.root(fmt.Sprintf("cpu %d %s", cpu, v.name), uint64(base+at), v.typ)
		}
	}
	if len(known) == 0 {
		err = w.perCPURoots(bases)
	}
	return errors.Join(err, w.perCPUHeads(bases))
}

type perCPUVariable struct {
	name string
	typ  *Type
}

func (s *Schema) perCPUVariables() []perCPUVariable {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perCPU != nil {
		return s.perCPU
	}
	s.perCPU = []perCPUVariable{}
	all, err := s.types.Named(".data..percpu")
	if err != nil {
		return nil
	}
	for _, t := range all {
		section, ok := t.(*btf.Datasec)
		if !ok {
			continue
		}
		for _, info := range section.Vars {
			v, ok := info.Type.(*btf.Var)
			if !ok {
				continue
			}
			if own, ok := bare(v.Type).(*btf.Struct); ok {
				s.perCPU = append(s.perCPU, perCPUVariable{v.Name, s.declare(own, own.Name)})
				s.settle(s.perCPU[len(s.perCPU)-1].typ)
				continue
			}
			out := &Type{Name: v.Name, schema: s, compiled: true, source: v.Type}
			for _, t := range s.fill(out) {
				s.settle(t)
			}
			s.perCPU = append(s.perCPU, perCPUVariable{v.Name, out})
		}
	}
	return s.perCPU
}
