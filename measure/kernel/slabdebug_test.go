package kernel

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	debugCache = queuesBase + 0x20_0000
	debugPool  = queuesBase + 0x30_0000
	debugFence = queuesBase + 0x40_0000 // struct kfence_metadata of 64 bytes, with addr at 24
)

// debugTypes are a cache's and KFENCE's; since 6.9 flags are numbered.
func debugTypes(t *testing.T, numbered bool) *Types {
	t.Helper()
	number, word := &btf.Int{Name: "int", Size: 4}, &btf.Int{Name: "long", Size: 8}
	types := []btf.Type{
		&btf.Struct{Name: "kmem_cache", Size: 64, Members: []btf.Member{{Name: "flags", Type: number, Offset: 8 * 8},
			{Name: "size", Type: number, Offset: 24 * 8}, {Name: "red_left_pad", Type: number, Offset: 32 * 8}}},
		&btf.Struct{Name: "kfence_metadata", Size: 64, Members: []btf.Member{{Name: "addr", Type: word, Offset: 24 * 8}}},
	}
	if numbered {
		types = append(types, &btf.Enum{Name: "_slab_flag_bits", Size: 4, Values: []btf.EnumValue{{Name: "_SLAB_RED_ZONE", Value: 1}}})
	}
	return typesOf(t, types...)
}

func TestSlabPad(t *testing.T) {
	for name, tt := range map[string]struct {
		numbered         bool
		flags, size, pad uint64
		want             uint64
		err              error
	}{
		"none":                   {flags: 0x2000, size: 256},
		"a red zone":             {flags: 0x400, size: 256, pad: 64, want: 64},
		"given up":               {flags: 0x800, size: 256, pad: 64},
		"a red zone, since 6.9":  {numbered: true, flags: 2, size: 256, pad: 64, want: 64},
		"another flag, then":     {numbered: true, flags: 0x400, size: 256, pad: 64},
		"as large as the place":  {flags: 0x400, size: 256, pad: 256, err: ErrSlab},
		"not at a word's bounds": {flags: 0x400, size: 256, pad: 63, err: ErrSlab},
	} {
		t.Run(name, func(t *testing.T) {
			m := newQueuesMemory()
			m.put(debugCache+8, tt.flags, 0, tt.size, tt.pad)
			got, err := m.profile(debugTypes(t, tt.numbered)).SlabPad(debugCache)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%d, %v; want %d, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// TestFence finds the objects of KFENCE, whose account is an array up to 6.5 and
// behind a pointer since.
func TestFence(t *testing.T) {
	const page = debugPool + 4*mem.PageSize // of the second object
	for name, pointer := range map[string]bool{"6.1": false, "6.12": true} {
		t.Run(name, func(t *testing.T) {
			m := newQueuesMemory()
			p := m.profile(debugTypes(t, false))
			symbols := []Symbol{{queuesBase + 0x10_2000, 'd', "__kfence_pool"}, {debugFence, 'd', "kfence_metadata"}}
			if pointer {
				symbols[1].Addr = queuesBase + 0x10_2008
				symbols = append(symbols, Symbol{queuesBase + 0x10_2010, 'd', "kfence_metadata_init"})
				m.put(queuesBase+0x10_2008, debugFence)
			}
			p.Symbols = NewSymbols(symbols)
			m.put(debugFence+64+24, page+0x480)
			m.put(debugFence+2*64+24, debugPool) // not of its page
			m.put(queuesBase+0x10_2000, 0)
			if f, err := p.Fence(); err != nil {
				t.Fatal(err)
			} else if at, ok := f.Object(page); ok {
				t.Errorf("a machine that booted without has an object at %v", at)
			}
			m.put(queuesBase+0x10_2000, debugPool)
			f, err := p.Fence()
			if err != nil {
				t.Fatal(err)
			}
			for at, want := range map[mem.Virt]mem.Virt{page: page + 0x480, page + mem.PageSize: 0, page + 2*mem.PageSize: 0,
				debugPool: 0, debugPool - mem.PageSize: 0, debugPool + 0x1000_0000: 0} {
				if got, ok := f.Object(at); got != want || ok != (want != 0) {
					t.Errorf("page %v: object at %v, %v; want %v", at, got, ok, want)
				}
			}
		})
	}
}

// TestPlacesOfTasks counts the listed tasks that a search of memory comes by.
func TestPlacesOfTasks(t *testing.T) {
	tasks := []Task{{At: 0x1000}, {At: 0x3000}, {At: 0x5008}}
	if n := countAt(tasks, []mem.Virt{0x1000, 0x2000, 0x3000, 0x5000}); n != 2 {
		t.Errorf("%d of the tasks lie there, want 2", n)
	}
}
