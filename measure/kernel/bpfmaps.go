package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// StructOps is a table of operations whose functions are BPF programs: a map of
// the kind BPF_MAP_TYPE_STRUCT_OPS (kernel/bpf/bpf_struct_ops.c, struct
// bpf_struct_ops_map).
type StructOps struct {
	// Pages are the starts of the memory that holds the code through which the
	// programs are called, 4 KiB each; since 6.8 within what BPF programs share,
	// and not page-aligned.
	Pages []mem.Virt
	// Functions is what the table that the kernel calls through has of places in
	// these pages.
	Functions []mem.Virt
}

const (
	mapTypeStructOps    = 26      // BPF_MAP_TYPE_STRUCT_OPS, include/uapi/linux/bpf.h
	maxStructOpsValue   = 1 << 16 // bytes
	maxStructOpsPages   = 64
	maxStructOpsInTotal = 1024
)

// StructOps lists them, through the kernel's numbers of maps (map_idr,
// kernel/bpf/syscall.c). A map of that kind is there from its making on; pages
// that do not exist yet are left out.
func (p *Profile) StructOps() ([]StructOps, error) {
	head, ok := p.Symbol("map_idr")
	if !ok || !p.Types.Has("bpf_struct_ops_map", "map") {
		return nil, nil // built without
	}
	l, err := p.structOpsLayout()
	if err != nil {
		return nil, fmt.Errorf("struct_ops: %w", err)
	}
	var out []StructOps
	err = p.xarray(head+mem.Virt(l.tree), func(at mem.Virt) error {
		kind, err := p.Space.U32(at + mem.Virt(l.kind))
		if err != nil || kind != mapTypeStructOps {
			return err
		}
		if len(out) == maxStructOpsInTotal {
			return fmt.Errorf("%w: over %d tables", ErrListTooLong, maxStructOpsInTotal)
		}
		s, err := p.structOps(l, at-mem.Virt(l.mapAt))
		out = append(out, s)
		return err
	})
	if err != nil {
		return out, fmt.Errorf("struct_ops: %w", err)
	}
	return out, nil
}

// structOpsLayout holds offsets: of the tree in struct idr, of members of struct
// bpf_map, and of struct bpf_struct_ops_map.
type structOpsLayout struct {
	tree, kind, valueSize      uint64
	mapAt, value, data         uint64
	image, imageCount, pageMax uint64 // one page, or (since 6.9, with imageCount) pageMax of them
}

func (p *Profile) structOpsLayout() (l structOpsLayout, err error) {
	for _, f := range []struct {
		into *uint64
		path []string
	}{
		{&l.tree, []string{"idr", "idr_rt", "xa_head"}}, {&l.kind, []string{"bpf_map", "map_type"}}, {&l.valueSize, []string{"bpf_map", "value_size"}},
		{&l.mapAt, []string{"bpf_struct_ops_map", "map"}}, {&l.value, []string{"bpf_struct_ops_map", "kvalue"}}, {&l.data, []string{"bpf_struct_ops_map", "kvalue", "data"}},
	} {
		if *f.into, err = p.Types.Offset(f.path[0], f.path[1:]...); err != nil {
			return l, err
		}
	}
	if !p.Types.Has("bpf_struct_ops_map", "image_pages") {
		l.pageMax = 1
		l.image, err = p.Types.Offset("bpf_struct_ops_map", "image")
		return l, err
	}
	pages, err := p.Types.Member("bpf_struct_ops_map", "image_pages")
	l.image, l.pageMax = pages.Offset, min(pages.Size/8, maxStructOpsPages)
	if err == nil {
		l.imageCount, err = p.Types.Offset("bpf_struct_ops_map", "image_pages_cnt")
	}
	return l, err
}

// structOps reads one table.
func (p *Profile) structOps(l structOpsLayout, at mem.Virt) (s StructOps, err error) {
	pages := l.pageMax
	if l.imageCount != 0 {
		n, err := p.Space.U32(at + mem.Virt(l.imageCount))
		if err != nil {
			return s, err
		}
		pages = min(pages, uint64(n))
	}
	for i := range pages {
		page, err := p.Space.U64(at + mem.Virt(l.image+8*i))
		if err != nil {
			return s, err
		}
		if page>>47 != 0 {
			s.Pages = append(s.Pages, mem.Virt(page))
		}
	}
	size, err1 := p.Space.U32(at + mem.Virt(l.mapAt+l.valueSize))
	if err1 != nil || uint64(size) < l.data-l.value || size > maxStructOpsValue {
		return s, errors.Join(err1, fmt.Errorf("%w: a table of %d bytes", ErrListTooLong, size))
	}
	raw := make([]byte, uint64(size)-(l.data-l.value))
	if err := p.Space.Read(raw, at+mem.Virt(l.data)); err != nil {
		return s, err
	}
	for off := uint64(0); off+8 <= uint64(len(raw)); off += 8 {
		f := mem.Virt(u64(raw, off))
		for _, page := range s.Pages {
			if f >= page && f < page+mem.PageSize {
				s.Functions = append(s.Functions, f)
			}
		}
	}
	return s, nil
}
