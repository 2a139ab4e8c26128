package graph

import (
	"math/bits"
	"sync"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// The slab allocator of these tests: one cache of inodes with one slab. Members
// lie where Debian's 6.1 and 7.2 have them.
const (
	pageTable = base + 0x1000_0000
	theCache  = heap + 0x4000
	theSlab   = heap + 0x5000 // its objects
	thePage   = pageTable + (theSlab-base)/mem.PageSize*64
	theCPU    = heap + 0x6000 // per-CPU memory
	theBarn   = heap + 0x7000
	slotSize  = 64
	linkAt    = 56 // of the pointer to the next free object
	secret    = 0x0123_4567_89ab_cdef
)

// member is a member of a type in these tests.
type member struct {
	name string
	at   btf.Bits // bytes
	size uint32
}

func structure(name string, size uint32, members ...member) *btf.Struct {
	out := &btf.Struct{Name: name, Size: size}
	for _, m := range members {
		out.Members = append(out.Members, btf.Member{Name: m.name, Offset: m.at * 8, Type: &btf.Int{Name: "number", Size: m.size}})
	}
	return out
}

// allocatorTypes are those of both kinds of kernels.
func allocatorTypes(cache ...member) []btf.Type {
	cache = append(cache, member{"flags", 8, 4}, member{"size", 24, 4}, member{"object_size", 28, 4}, member{"offset", 40, 4}, member{"red_left_pad", 44, 4},
		member{"refcount", 64, 4}, member{"name", 96, 8}, member{"list", 104, 8}, member{"random", 184, 8})
	return []btf.Type{
		&btf.Enum{Name: "pageflags", Size: 4, Values: []btf.EnumValue{{Name: "PG_slab", Value: 7}}},
		structure("page", 64, member{"flags", 0, 8}, member{"compound_head", 8, 8}),
		structure("slab", 64, member{"slab_cache", 24, 8}, member{"freelist", 32, 8}, member{"counters", 40, 8}),
		structure("kmem_cache", 256, cache...),
	}
}

// specWithLists is a kernel whose CPUs take over lists (up to 6.19), and
// specWithSheaves one whose have sheaves (since 7.0).
var (
	specWithLists = sync.OnceValues(func() (*btf.Spec, error) {
		return makeSpec(append(allocatorTypes(member{"cpu_slab", 0, 8}),
			structure("kmem_cache_cpu", 32, member{"freelist", 0, 8}, member{"slab", 16, 8}))...)
	})
	specWithSheaves = sync.OnceValues(func() (*btf.Spec, error) {
		return makeSpec(append(allocatorTypes(member{"cpu_sheaves", 0, 8}, member{"per_node", 208, 8}),
			structure("kmem_cache_per_node_ptrs", 16, member{"barn", 0, 8}, member{"node", 8, 8}),
			structure("slub_percpu_sheaves", 32, member{"main", 8, 8}, member{"spare", 16, 8}, member{"rcu_free", 24, 8}),
			structure("slab_sheaf", 32, member{"barn_list", 0, 8}, member{"size", 24, 4}, member{"objects", 32, 0}),
			structure("node_barn", 48, member{"sheaves_full", 8, 8}))...)
	})
)

// slabs adds the allocator. Nothing is free yet.
func (f *fixture) slabs(types func() (*btf.Spec, error)) *fixture {
	f.types = types
	f.put(f.global("page_offset_base"), base)
	f.put(f.global("vmemmap_base"), pageTable)
	f.put(f.global("__per_cpu_offset"), theCPU)
	f.put(f.global("nr_cpu_ids"), 1)
	f.link(f.global("slab_caches"), theCache+104)
	f.put(theCache, 0x100) // per-CPU: at theCPU+0x100
	f.put(theCache+24, slotSize|inodeSize<<32)
	f.put(theCache+40, linkAt)
	f.put(theCache+64, 1)
	f.put(theCache+96, theCache+0x800)
	f.Write(theCache+0x800-base, []byte("inode\x00")...)
	f.put(theCache+184, secret)
	for at := uint64(heap); at < heap+0x8000; at += mem.PageSize {
		f.put(pageTable+(at-base)/mem.PageSize*64, 0)
	}
	f.put(thePage, 1<<7)
	f.put(thePage+24, theCache)
	f.put(thePage+40, mem.PageSize/slotSize<<16)
	return f
}

// freed links free objects of the slab and returns the first.
func (f *fixture) freed(objects ...uint64) uint64 {
	for i, at := range objects {
		next := uint64(0)
		if i+1 < len(objects) {
			next = objects[i+1]
		}
		f.put(at+linkAt, next^secret^bits.ReverseBytes64(at+linkAt))
	}
	return objects[0]
}

// sheaf puts a sheaf of free objects at an address.
func (f *fixture) sheaf(at uint64, objects ...uint64) uint64 {
	f.put(at+24, uint64(len(objects)))
	for i, o := range objects {
		f.put(at+32+8*uint64(i), o)
	}
	return at
}
