package graph

import (
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// The kernel of these tests: types that are called like the real ones and have
// some of their members, global variables, and objects in one page of memory or
// a few. Nothing of it comes from a real kernel.
const (
	base  = 0xffff_ffff_8000_0000 // of the image: physical 0
	text  = base + 0x10_0000      // [_stext, _etext)
	vars  = base + 0x20_0000      // global variables, 256 bytes for each
	heap  = base + 0x30_0000      // objects
	after = base + 0x40_0000      // nothing is mapped from here on
)

// fixture is a kernel under construction.
type fixture struct {
	memtest.Pages
	symbols []kernel.Symbol
	next    uint64 // global variable
	types   func() (*btf.Spec, error)
}

func newFixture() *fixture {
	f := &fixture{Pages: make(memtest.Pages), next: vars, types: spec}
	// One page of 1 GiB at the image's address (Intel SDM vol. 3A, 4.5.4).
	const root, directory = 0x1000, 0x2000
	f.WriteU64(root+511*8, directory|3)
	f.WriteU64(directory+510*8, 0x83)
	f.symbols = []kernel.Symbol{{Addr: base, Kind: 'T', Name: "_text"}, {Addr: text, Kind: 'T', Name: "_stext"}, {Addr: text + 0x1000, Kind: 'T', Name: "_etext"}}
	for at := uint64(heap); at < heap+0x8000; at += mem.PageSize {
		f.put(at, 0)
	}
	f.put(vars, 0)
	return f
}

// put stores a word at a virtual address.
func (f *fixture) put(at, value uint64) { f.WriteU64(mem.Phys(at-base), value) }

// global makes a variable.
func (f *fixture) global(name string) uint64 {
	at := f.next
	f.next += 256
	f.symbols = append(f.symbols, kernel.Symbol{Addr: at, Kind: 'D', Name: name})
	return at
}

func (f *fixture) profile(t testing.TB) *kernel.Profile {
	t.Helper()
	types, err := f.types()
	if err != nil {
		t.Fatal(err)
	}
	f.symbols = append(f.symbols, kernel.Symbol{Addr: f.next, Kind: 'D', Name: "_end"})
	return &kernel.Profile{Base: base, End: after, Symbols: kernel.NewSymbols(f.symbols),
		Space: paging.SpaceAt(f.Pages, 0x1000, 4), Types: &kernel.Types{Spec: types}}
}

func (f *fixture) walk(t testing.TB) *Result {
	t.Helper()
	r, err := Walk(t.Context(), f.profile(t), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Sizes and offsets of the types below.
const (
	inodeSize           = 48
	inodeList, inodeFop = 0, 16
	superList           = 0
	superInodes         = 16
	superOps            = 32
	entryTree           = 0
	entryNode           = 8
	entryWrite          = 32
	nodeSlots           = 8
)

// spec is made once: most of a small walk's time goes into it.
var spec = sync.OnceValues(func() (*btf.Spec, error) { return makeSpec() })

// makeSpec makes the types below, and more of them.
func makeSpec(more ...btf.Type) (*btf.Spec, error) {
	word := &btf.Int{Name: "unsigned long", Size: 8}
	void := &btf.Pointer{Target: (*btf.Void)(nil)}
	function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
	make := func(name string, size uint32, members ...btf.Member) *btf.Struct {
		return &btf.Struct{Name: name, Size: size, Members: members}
	}
	member := func(name string, at btf.Bits, t btf.Type) btf.Member {
		return btf.Member{Name: name, Type: t, Offset: at * 8}
	}
	to := func(t btf.Type) btf.Type { return &btf.Pointer{Target: t} }

	list := make("list_head", 16)
	list.Members = []btf.Member{member("next", 0, to(list)), member("prev", 8, to(list))}
	node := make("rb_node", 24)
	node.Members = []btf.Member{member("__rb_parent_color", 0, word), member("rb_right", 8, to(node)), member("rb_left", 16, to(node))}
	tree := make("rb_root", 8, member("rb_node", 0, to(node)))
	ops := make("file_operations", 16, member("open", 0, function), member("read", 8, function))
	choice := &btf.Union{Size: 8, Members: []btf.Member{member("i_fop", 0, to(ops)), member("free_inode", 0, function)}}
	inode := make("inode", inodeSize, member("i_sb_list", inodeList, list), member("", inodeFop, choice), member("i_private", 24, void))
	super := make("super_block", 48, member("s_list", superList, list), member("s_inodes", superInodes, list), member("s_op", superOps, to(ops)))
	entry := make("proc_dir_entry", 40, member("subdir", entryTree, tree), member("subdir_node", entryNode, node), member("write", entryWrite, function))
	block := make("notifier_block", 24)
	block.Members = []btf.Member{member("notifier_call", 0, function), member("next", 8, to(block))}
	head := make("blocking_notifier_head", 8, member("head", 0, to(block)))
	xarray := make("xarray", 8, member("xa_head", 0, void))
	idr := make("idr", 8, member("idr_rt", 0, xarray))
	slots := make("xa_node", nodeSlots+64*8, member("slots", nodeSlots, &btf.Array{Type: void, Index: word, Nelems: 64}))
	program := make("bpf_prog", 8, member("bpf_func", 0, function))
	fds := make("fdtable", 24, member("max_fds", 0, &btf.Int{Name: "unsigned int", Size: 4}), member("fd", 8, to(to(inode))))
	file := make("file", 8, member("f_op", 0, to(ops)))
	task := make("nsproxy", 8, member("fdt", 0, to(fds)))

	b, err := btf.NewBuilder(append([]btf.Type{super, inode, entry, head, idr, slots, program, fds, file, task}, more...), nil)
	if err != nil {
		return nil, err
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		return nil, err
	}
	return btf.LoadSpecFromReader(reading(raw))
}
