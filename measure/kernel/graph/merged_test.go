package graph

import (
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// Of an object in a cache that the allocator put together with others of its size,
// the cache's name does not tell the type: a socket of AF_UNIX lies in the cache
// called PING, and begins as what that holds does.
func TestMergedCachesTellNoLargerObject(t *testing.T) {
	const object = theSlab + 2*slotSize
	for name, tt := range map[string]struct {
		references uint64
		pointer    string // the type of a pointer to it; none of a void one
		want       string
	}{
		"one cache, its first member": {1, "list_head", "inode"},
		"one cache, a void pointer":   {1, "", "inode"},
		"merged, its first member":    {2, "list_head", "list_head"},
		"merged, the type itself":     {2, "inode", "inode"},
		"merged, a void pointer":      {2, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture().slabs(specWithLists)
			f.put(theCache+64, tt.references)
			p := f.profile(t)
			schema := newSchema(p)
			w := newWalker(t.Context(), p, schema, schema.borrow(), nil)
			var pointer *Type
			if tt.pointer != "" {
				pointer, _ = schema.Struct(tt.pointer)
			}
			at, got, ok := w.areas.lies(object, pointer)
			if ok != (tt.want != "") || ok && (at != object || got.Name != tt.want) {
				t.Errorf("%#x, %+v, %v; want %q", at, got, ok, tt.want)
			}
		})
	}
}

var specWithSockets = sync.OnceValues(func() (*btf.Spec, error) {
	function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
	common := structure("sock_common", 16, member{"skc_prot", 8, 8})
	sock := &btf.Struct{Name: "sock", Size: 24, Members: []btf.Member{{Name: "__sk_common", Type: common}, {Name: "sk_state_change", Type: function, Offset: 16 * 8}}}
	inet := &btf.Struct{Name: "inet_sock", Size: 24, Members: []btf.Member{{Name: "sk", Type: sock}}}
	udp := &btf.Struct{Name: "udp_sock", Size: 32, Members: []btf.Member{{Name: "inet", Type: inet}, {Name: "encap_rcv", Type: function, Offset: 24 * 8}}}
	return makeSpec(udp)
})

// What a socket is, its protocol says.
func TestSocketsAreToldByTheirProtocol(t *testing.T) {
	f := newFixture()
	f.types = specWithSockets
	protocol := f.global("udp_prot")
	other := f.global("other_prot")
	for at, prot := range map[uint64]uint64{heap: protocol, heap + 0x100: other} {
		f.put(at+8, prot)
		f.put(at+16, text)
		f.put(at+24, text+64+at-heap)
	}
	p := f.profile(t)
	schema := newSchema(p)
	w := newWalker(t.Context(), p, schema, schema.borrow(), nil)
	sock, err := schema.Struct("sock")
	if err != nil {
		t.Fatal(err)
	}
	w.root("one", heap, sock)
	w.root("other", heap+0x100, sock)
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if w.targets[text] == nil || w.targets[text+64] == nil || len(w.targets) != 2 {
		t.Errorf("found %+v", w.targets)
	}
}
