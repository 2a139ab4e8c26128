package kernel

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// areaLayout reads the areas of one part of struct module.
type areaLayout struct {
	base, size uint64
	kind       AreaKind // of the whole, where the sizes below are absent

	// textSize, roSize and roAfterInitSize are the ends, from base, of text,
	// rodata and ro-after-init data (struct module_layout, up to 6.3).
	split                             bool
	textSize, roSize, roAfterInitSize uint64
}

// areaLayouts finds where struct module keeps its areas:
//
//   - up to 6.3, struct module_layout core_layout and init_layout;
//   - since 6.4, struct module_memory mem[MOD_MEM_NUM_TYPES], in the order of
//     enum mod_mem_type: text, data, rodata, ro-after-init, init text, init
//     data, init rodata.
func areaLayouts(t *Types) ([]areaLayout, error) {
	if at, err := t.Offset("module", "core_layout"); err == nil {
		return splitLayout(t, at)
	}
	at, err := t.Offset("module", "mem")
	if err != nil {
		return nil, err
	}
	stride, err := t.Size("module_memory")
	if err != nil {
		return nil, err
	}
	base, err := t.Offset("module_memory", "base")
	if err != nil {
		return nil, err
	}
	size, err := t.Offset("module_memory", "size")
	if err != nil {
		return nil, err
	}
	var out []areaLayout
	for i, kind := range []AreaKind{AreaText, AreaData, AreaRodata, AreaROAfterInit, AreaInit, AreaInit, AreaInit} {
		start := at + uint64(i)*stride
		out = append(out, areaLayout{base: start + base, size: start + size, kind: kind})
	}
	return out, nil
}

func splitLayout(t *Types, core uint64) ([]areaLayout, error) {
	a := areaLayout{split: true}
	for _, f := range []struct {
		into *uint64
		name string
	}{
		{&a.base, "base"}, {&a.size, "size"}, {&a.textSize, "text_size"},
		{&a.roSize, "ro_size"}, {&a.roAfterInitSize, "ro_after_init_size"},
	} {
		at, err := t.Offset("module_layout", f.name)
		if err != nil {
			return nil, err
		}
		*f.into = core + at
	}
	init, err := t.Offset("module", "init_layout")
	if err != nil {
		return nil, err
	}
	return []areaLayout{a, {base: init + a.base - core, size: init + a.size - core, kind: AreaInit}}, nil
}

// read returns the areas, validated to lie where modules do.
func (l areaLayout) read(raw []byte) ([]Area, error) {
	base, size := mem.Virt(u64(raw, l.base)), uint64(u32(raw, l.size))
	if size == 0 {
		return nil, nil
	}
	if size > maxModuleSize || base < modulesFirst || base > modulesLast || base%mem.PageSize != 0 {
		return nil, fmt.Errorf("%w: %d bytes at %v", ErrModule, size, base)
	}
	if !l.split {
		return []Area{{Kind: l.kind, Start: base, Size: size}}, nil
	}
	var out []Area
	from := uint64(0)
	for _, end := range []struct {
		kind AreaKind
		at   uint64
	}{
		{AreaText, uint64(u32(raw, l.textSize))},
		{AreaRodata, uint64(u32(raw, l.roSize))},
		{AreaROAfterInit, uint64(u32(raw, l.roAfterInitSize))},
		{AreaData, size},
	} {
		if end.at < from || end.at > size {
			return nil, fmt.Errorf("%w: %s ends at %#x of %#x", ErrModule, end.kind, end.at, size)
		}
		if end.at > from {
			out = append(out, Area{Kind: end.kind, Start: base + mem.Virt(from), Size: end.at - from})
		}
		from = end.at
	}
	return out, nil
}
