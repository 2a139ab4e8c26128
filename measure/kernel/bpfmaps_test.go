package kernel

import (
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

const (
	mapsBase  = 0xffff_ffff_8000_0000 // physical 0, mapped by one page of 1 GiB
	mapsIDR   = mapsBase + 0x20_0000
	mapsHeap  = mapsBase + 0x30_0000
	mapsImage = mapsBase + 0x40_0040
)

// mapsTypes are the types that [Profile.StructOps] goes by, as of 5.10.
var mapsTypes = sync.OnceValues(func() (*Types, error) {
	member := func(name string, at btf.Bits, t btf.Type) btf.Member {
		return btf.Member{Name: name, Type: t, Offset: at * 8}
	}
	number := &btf.Int{Name: "unsigned int", Size: 4}
	word := &btf.Int{Name: "unsigned long", Size: 8}
	void := &btf.Pointer{Target: (*btf.Void)(nil)}
	tree := &btf.Struct{Name: "xarray", Size: 8, Members: []btf.Member{member("xa_head", 0, void)}}
	idr := &btf.Struct{Name: "idr", Size: 8, Members: []btf.Member{member("idr_rt", 0, tree)}}
	node := &btf.Struct{Name: "xa_node", Size: 8 + 64*8, Members: []btf.Member{member("slots", 8, &btf.Array{Type: void, Index: word, Nelems: 64})}}
	common := &btf.Struct{Name: "bpf_map", Size: 16, Members: []btf.Member{member("map_type", 0, number), member("value_size", 4, number)}}
	value := &btf.Struct{Name: "bpf_struct_ops_value", Size: 8, Members: []btf.Member{
		member("state", 0, word), member("data", 8, &btf.Array{Type: &btf.Int{Name: "char", Size: 1}, Index: word})}}
	table := &btf.Struct{Name: "bpf_struct_ops_map", Size: 32, Members: []btf.Member{
		member("map", 0, common), member("image", 16, void), member("kvalue", 24, value)}}
	return buildTypes(idr, node, table)
})

// mapsProfile is a kernel whose heap has these words, the tree of maps at its top.
func mapsProfile(t testing.TB, heap []byte, top uint64) *Profile {
	t.Helper()
	types, err := mapsTypes()
	if err != nil {
		t.Fatal(err)
	}
	m := make(memtest.Pages)
	m.WriteU64(0x1000+511*8, 0x2000|3)
	m.WriteU64(0x2000+510*8, 0x83)
	m.WriteU64(mapsIDR-mapsBase, top)
	for at := 0; at < 4*mem.PageSize; at += mem.PageSize {
		m.WriteU64(mem.Phys(mapsHeap-mapsBase+at), 0)
	}
	m.Write(mapsHeap-mapsBase, heap[:min(len(heap), 4*mem.PageSize)]...)
	return &Profile{Base: mapsBase, Symbols: NewSymbols([]Symbol{{mapsIDR, 'd', "map_idr"}}),
		Space: paging.SpaceAt(m, 0x1000, 4), Types: types}
}

func words(list ...uint64) []byte {
	var out []byte
	for _, w := range list {
		for i := range 8 {
			out = append(out, byte(w>>(8*i)))
		}
	}
	return out
}

// TestStructOps finds the code of a table, and which functions in it are called.
func TestStructOps(t *testing.T) {
	table := words(mapTypeStructOps|(8+24)<<32, 0, mapsImage, 1, mapsImage+0x80, 7, mapsImage+0x2000)
	for name, tt := range map[string]struct {
		heap []byte
		top  uint64
		want []StructOps
		bad  bool
	}{
		"none":               {nil, 0, nil, false},
		"one":                {table, mapsHeap, []StructOps{{Pages: []mem.Virt{mapsImage}, Functions: []mem.Virt{mapsImage + 0x80}}}, false},
		"of another kind":    {words(1 | 32<<32), mapsHeap, nil, false},
		"a huge one":         {words(mapTypeStructOps|0xffffffff<<32, 0, mapsImage), mapsHeap, []StructOps{{Pages: []mem.Virt{mapsImage}}}, true},
		"one without a room": {words(mapTypeStructOps|4<<32, 0, mapsImage), mapsHeap, []StructOps{{Pages: []mem.Virt{mapsImage}}}, true},
		"a tree that loops":  {words(0, mapsHeap|2), mapsHeap | 2, nil, true},
		"a pointer to no":    {nil, mapsBase - 1<<32, nil, true},
	} {
		got, err := mapsProfile(t, tt.heap, tt.top).StructOps()
		same := slices.EqualFunc(got, tt.want, func(a, b StructOps) bool {
			return slices.Equal(a.Pages, b.Pages) && slices.Equal(a.Functions, b.Functions)
		})
		if !same || (err != nil) != tt.bad {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
}

// FuzzStructOps reads maps out of any memory: it ends, within its bounds.
func FuzzStructOps(f *testing.F) {
	f.Add(words(mapTypeStructOps|(8+24)<<32, 0, mapsImage, 1, mapsImage+0x80), uint64(mapsHeap))
	f.Add(words(0, mapsHeap|2, mapsHeap), uint64(mapsHeap|2))
	f.Fuzz(func(t *testing.T, heap []byte, top uint64) {
		got, _ := mapsProfile(t, heap, top).StructOps()
		if len(got) > maxStructOpsInTotal {
			t.Errorf("%d tables", len(got))
		}
	})
}
